// Package acmetest has the counterparts of package acme for tests: an authority, which is
// letsencrypt/pebble, and a DNS server that takes signed updates.
package acmetest

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// DNS is a DNS server for all names: each has the address 127.0.0.1, and the TXT records
// that tests and updates (RFC 2136) give it.
type DNS struct {
	Addr string // UDP and TCP

	zone string
	key  string // of updates; "": unsigned ones are taken

	mu    sync.Mutex
	txt   map[string][]string
	alias map[string]string
	names []string // of the servers of the zone
	added int
}

// StartDNS runs a DNS server. Updates are for a zone, and signed with a key that has a
// name and a secret in base64; without a name they are not signed.
func StartDNS(t testing.TB, zone, keyName, secret string) *DNS {
	t.Helper()
	d := &DNS{zone: dns.Fqdn(zone), txt: make(map[string][]string), alias: make(map[string]string)}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d.Addr = tcp.Addr().String()
	secrets := map[string]string{}
	if keyName != "" {
		d.key = dns.Fqdn(keyName)
		secrets[d.key] = secret
	}
	for _, server := range []*dns.Server{{Listener: tcp}, {PacketConn: udp}} {
		server.Handler, server.TsigSecret = d, secrets
		server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept } // updates too
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return d
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	switch {
	case r.Opcode == dns.OpcodeUpdate:
		m.Rcode = d.update(w, r)
		if r.IsTsig() != nil && w.TsigStatus() == nil {
			m.SetTsig(d.key, dns.HmacSHA256, 300, time.Now().Unix())
		}
	case len(r.Question) == 1:
		m.Answer = d.answer(r.Question[0])
	}
	_ = w.WriteMsg(m)
}

func (d *DNS) update(w dns.ResponseWriter, r *dns.Msg) int {
	if d.key != "" && (r.IsTsig() == nil || w.TsigStatus() != nil) {
		return dns.RcodeNotAuth
	}
	if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, d.zone) {
		return dns.RcodeNotZone
	}
	for _, rr := range r.Ns {
		txt, ok := rr.(*dns.TXT)
		switch {
		case !ok || !dns.IsSubDomain(d.zone, rr.Header().Name):
			return dns.RcodeNotZone
		case rr.Header().Class == dns.ClassINET:
			d.Add(rr.Header().Name, strings.Join(txt.Txt, ""))
		default:
			d.Remove(rr.Header().Name, strings.Join(txt.Txt, ""))
		}
	}
	return dns.RcodeSuccess
}

func (d *DNS) answer(q dns.Question) []dns.RR {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := strings.ToLower(q.Name)
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}
	var rrs []dns.RR
	switch q.Qtype {
	case dns.TypeA:
		rrs = append(rrs, &dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
	case dns.TypeNS:
		for _, server := range d.names {
			rrs = append(rrs, &dns.NS{Hdr: head, Ns: server})
		}
	case dns.TypeTXT:
		if target := d.alias[name]; target != "" {
			rrs = append(rrs, &dns.CNAME{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 1}, Target: target})
			name, head.Name = target, target
		}
		for _, value := range d.txt[name] {
			rrs = append(rrs, &dns.TXT{Hdr: head, Txt: []string{value}})
		}
	}
	return rrs
}

// Add adds a TXT record.
func (d *DNS) Add(name, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	d.txt[name] = append(d.txt[name], value)
	d.added++
}

// Remove removes a TXT record.
func (d *DNS) Remove(name, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	var left []string
	for _, v := range d.txt[name] {
		if v != value {
			left = append(left, v)
		}
	}
	d.txt[name] = left
}

// Alias makes a name a CNAME of another one.
func (d *DNS) Alias(name, target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alias[dns.CanonicalName(name)] = dns.CanonicalName(target)
}

// Serves names one more server of the zone.
func (d *DNS) Serves(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names = append(d.names, name)
}

// TXT returns the TXT records of a name.
func (d *DNS) TXT(name string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.txt[dns.CanonicalName(name)]...)
}

// Added returns how many TXT records were added so far.
func (d *DNS) Added() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.added
}
