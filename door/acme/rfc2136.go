package acme

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// recordTTL is short, so that a second attempt does not read the first one's record.
	recordTTL = 60
	// tsigFudge is how much two clocks may differ (RFC 8945, section 10).
	tsigFudge = 300
	// spreadTimeout bounds the wait for the secondary servers of a zone. They get notice of a
	// change within seconds (RFC 1996).
	spreadTimeout = time.Minute
	// spreadPause is the time between two looks at a server.
	spreadPause = 2 * time.Second
	// maxServers bounds the servers of a zone that are waited for. Zones have up to 13.
	maxServers = 16
)

// RFC2136 changes the records of a zone by dynamic updates (RFC 2136), each signed with a
// key that both sides have (TSIG, RFC 8945).
type RFC2136 struct {
	Server    string // host:port
	Zone      string
	KeyName   string // empty: unsigned
	Algorithm string // such as hmac-sha256
	Secret    string // base64
	Logger    *slog.Logger

	// Of tests; zero: the constants above, and addresses by DNS.
	pause, timeout time.Duration
	addresses      func(ctx context.Context, name string) []string
}

// Present implements [Records]. It returns when all servers of the zone have the record,
// since the authority may ask any of them. A server that does not have it after a minute,
// or cannot be reached from here, is left to the authority.
func (r RFC2136) Present(ctx context.Context, name, value string) error {
	if err := r.update(ctx, name, value, (*dns.Msg).Insert); err != nil {
		return err
	}
	r.await(ctx, name, value)
	return nil
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

// await waits until the servers of the zone have a record.
func (r RFC2136) await(ctx context.Context, name, value string) {
	pause, timeout := spreadPause, spreadTimeout
	if r.timeout > 0 {
		pause, timeout = r.pause, r.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	missing := r.servers(ctx)
	for {
		missing = slices.DeleteFunc(missing, func(server string) bool { return r.has(ctx, server, name, value) })
		if len(missing) == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			r.Logger.Warn("servers of the zone do not have the new TXT record yet, or do not answer. Weir asks the authority anyway. If it refuses, check the zone transfer",
				"zone", r.Zone, "record", name, "servers", missing)
			return
		}
	}
}

// servers returns the names of the zone's servers, as the configured one knows them.
func (r RFC2136) servers(ctx context.Context) []string {
	var names []string
	for _, rr := range r.ask(ctx, r.Server, r.Zone, dns.TypeNS) {
		if ns, ok := rr.(*dns.NS); ok && len(names) < maxServers {
			names = append(names, dns.CanonicalName(ns.Ns))
		}
	}
	return names
}

// has reports whether one address of a server has a record.
func (r RFC2136) has(ctx context.Context, server, name, value string) bool {
	find := r.addresses
	if find == nil {
		find = r.addressesOf
	}
	for _, address := range find(ctx, server) {
		for _, rr := range r.ask(ctx, address, name, dns.TypeTXT) {
			if txt, ok := rr.(*dns.TXT); ok && strings.Join(txt.Txt, "") == value {
				return true
			}
		}
	}
	return false
}

// addressesOf returns the addresses of a server of the zone, with a port. The zone itself
// may have them, and no resolver of this machine know it.
func (r RFC2136) addressesOf(ctx context.Context, name string) (addresses []string) {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, rr := range r.ask(ctx, r.Server, name, kind) {
			switch rr := rr.(type) {
			case *dns.A:
				addresses = append(addresses, rr.A.String())
			case *dns.AAAA:
				addresses = append(addresses, rr.AAAA.String())
			}
		}
	}
	if len(addresses) == 0 {
		addresses, _ = net.DefaultResolver.LookupHost(ctx, name) // none: it counts as missing
	}
	const most = 4 // a host has one or two
	addresses = addresses[:min(len(addresses), most)]
	for i, address := range addresses {
		addresses[i] = net.JoinHostPort(address, "53")
	}
	return addresses
}

// ask returns the answers of a server about its own records. An error is not an answer.
func (r RFC2136) ask(ctx context.Context, server, name string, kind uint16) []dns.RR {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	query.RecursionDesired = false
	for _, network := range []string{"udp", "tcp"} {
		reply, _, err := (&dns.Client{Net: network}).ExchangeContext(ctx, query, server)
		if err != nil {
			return nil
		}
		if !reply.Truncated {
			return reply.Answer
		}
	}
	return nil
}
