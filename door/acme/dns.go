package acme

import (
	"context"
	"fmt"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// dnsTimeout bounds one change of a record, which may wait until all servers of a zone have
// it.
const dnsTimeout = 2 * time.Minute

var errDNSTimeout = fmt.Errorf("it did not end within %s", dnsTimeout)

// Records changes TXT records of a DNS server. Present returns when the record can be
// read. Both are called with names such as _acme-challenge.mirror.example.com, without a
// dot at the end. A name may have several values at a time, of hosts such as example.com
// and *.example.com.
type Records interface {
	Present(ctx context.Context, name, value string) error
	CleanUp(ctx context.Context, name, value string) error
}

// solver proves hosts by TXT records (RFC 8555, section 8.4).
type solver struct{ records Records }

func (s *solver) Present(ctx context.Context, c acme.Challenge) error {
	ctx, cancel := context.WithTimeoutCause(ctx, dnsTimeout, errDNSTimeout)
	defer cancel()
	name := c.DNS01TXTRecordName()
	if err := s.records.Present(ctx, name, c.DNS01KeyAuthorization()); err != nil {
		return fmt.Errorf("cannot add the TXT record %s: %w", name, err)
	}
	return nil
}

func (s *solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	// The attempt may have been abandoned, and its record has to go anyway.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), dnsTimeout, errDNSTimeout)
	defer cancel()
	name := c.DNS01TXTRecordName()
	if err := s.records.CleanUp(ctx, name, c.DNS01KeyAuthorization()); err != nil {
		return fmt.Errorf("cannot remove the TXT record %s: %w", name, err)
	}
	return nil
}
