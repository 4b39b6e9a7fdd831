package acme

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

const (
	// recordTTL is short, so that a second attempt does not read the first one's record.
	recordTTL = 60
	// tsigFudge is how much two clocks may differ (RFC 8945, section 10).
	tsigFudge = 300
)

// RFC2136 changes the records of a zone by dynamic updates (RFC 2136), each signed with a
// key that both sides have (TSIG, RFC 8945).
type RFC2136 struct {
	Server    string // host:port
	Zone      string
	KeyName   string // empty: unsigned
	Algorithm string // such as hmac-sha256
	Secret    string // base64
}

// Present implements [Records].
func (r RFC2136) Present(ctx context.Context, name, value string) error {
	return r.update(ctx, name, value, (*dns.Msg).Insert)
}

// CleanUp implements [Records].
func (r RFC2136) CleanUp(ctx context.Context, name, value string) error {
	return r.update(ctx, name, value, (*dns.Msg).Remove)
}

func (r RFC2136) update(ctx context.Context, name, value string, change func(*dns.Msg, []dns.RR)) error {
	msg := new(dns.Msg).SetUpdate(dns.Fqdn(r.Zone))
	change(msg, []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL}, Txt: []string{value},
	}})
	// Over TCP, since a signed message may be too large for UDP, and its sender be forged.
	client := &dns.Client{Net: "tcp"}
	if r.KeyName != "" {
		key := dns.CanonicalName(r.KeyName)
		client.TsigSecret = map[string]string{key: r.Secret}
		msg.SetTsig(key, dns.Fqdn(r.Algorithm), tsigFudge, time.Now().Unix())
	}
	reply, _, err := client.ExchangeContext(ctx, msg, r.Server)
	if err != nil {
		return fmt.Errorf("the DNS server %s: %w", r.Server, err)
	}
	if reply.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("the DNS server %s refuses the update of zone %s: %s", r.Server, r.Zone, dns.RcodeToString[reply.Rcode])
	}
	return nil
}
