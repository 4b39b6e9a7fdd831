package hosts_test

import (
	"net/netip"
	"testing"

	"github.com/weirhq/weir/internal/hosts"
)

func TestHosts(t *testing.T) {
	for host, want := range map[string]struct{ loopback, unspecified bool }{
		"localhost":         {true, false},
		"127.0.0.1":         {true, false},
		"127.8.8.8":         {true, false},
		"::1":               {true, false},
		"::ffff:127.0.0.1":  {true, false},
		"":                  {false, true},
		"0.0.0.0":           {false, true},
		"::":                {false, true},
		"10.0.0.1":          {false, false},
		"localhost.example": {false, false},
		"127.0.0.1:80":      {false, false},
	} {
		if l, u := hosts.Loopback(host), hosts.Unspecified(host); l != want.loopback || u != want.unspecified {
			t.Errorf("%q: loopback %v, unspecified %v", host, l, u)
		}
	}
}

func TestValidPort(t *testing.T) {
	for port, want := range map[string]bool{"1": true, "65535": true, "0": false, "65536": false, "": false, "-1": false, "http": false, "+1": false} {
		if got := hosts.ValidPort(port); got != want {
			t.Errorf("%q: %v", port, got)
		}
	}
}

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "2001:db8:1:2::3": "2001:db8:1::/48", "fe80::1%eth0": "fe80::/48", "::1": "::/48",
	} {
		if got := hosts.Network(netip.MustParseAddr(address)); got != netip.MustParsePrefix(want) {
			t.Errorf("%s: %s", address, got)
		}
	}
	if got := hosts.Network(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: %s", got)
	}
}
