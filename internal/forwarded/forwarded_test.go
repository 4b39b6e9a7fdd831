package forwarded_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/forwarded"
)

func TestClient(t *testing.T) {
	var proxies forwarded.Proxies
	for _, prefix := range []string{"10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "::1/128"} {
		proxies = append(proxies, netip.MustParsePrefix(prefix))
	}
	const proxy = "10.0.0.1:1234"
	for name, c := range map[string]struct {
		peer    string
		headers []string // of X-Forwarded-For
		want    string
	}{
		"no proxy":                         {"203.0.113.9:1", nil, "203.0.113.9"},
		"no proxy, and a forged header":    {"203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		"a proxy without a header":         {proxy, nil, "10.0.0.1"},
		"an empty header":                  {proxy, []string{""}, "10.0.0.1"},
		"one client":                       {proxy, []string{"198.51.100.1"}, "198.51.100.1"},
		"a forged address on the left":     {proxy, []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		"a forged proxy on the left":       {proxy, []string{"10.9.9.9, 198.51.100.1"}, "198.51.100.1"},
		"two proxies":                      {proxy, []string{"1.1.1.1,198.51.100.1 , 192.0.2.7"}, "198.51.100.1"},
		"proxies only":                     {proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"several headers":                  {proxy, []string{"1.1.1.1", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		"empty elements":                   {proxy, []string{"198.51.100.1,, ,\t10.0.0.2,"}, "198.51.100.1"},
		"a port":                           {proxy, []string{"198.51.100.1:55555"}, "198.51.100.1"},
		"IPv6":                             {proxy, []string{"2001:DB8:0::1"}, "2001:db8::1"},
		"IPv6 in brackets":                 {proxy, []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv6 and a port":                  {proxy, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		"a zone":                           {proxy, []string{"fe80::1%eth0"}, "fe80::1"},
		"IPv4 in IPv6":                     {proxy, []string{"::ffff:198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		"a peer of IPv6":                   {"[fd00::5]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"a peer of IPv6 that is none":      {"[2001:db8::5]:1", []string{"198.51.100.1"}, "2001:db8::5"},
		"a peer of IPv4 in IPv6":           {"[::ffff:10.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"a peer with a zone":               {"[fd00::5%eth0]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"garbage":                          {proxy, []string{"unknown"}, "10.0.0.1"},
		"a hidden client":                  {proxy, []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		"a name":                           {proxy, []string{"localhost"}, "10.0.0.1"},
		"an attack on the log":             {proxy, []string{"\x1b[2J\u202e"}, "10.0.0.1"},
		"a number that is no address":      {proxy, []string{"0x7f.1"}, "10.0.0.1"},
		"octal":                            {proxy, []string{"010.0.0.1"}, "10.0.0.1"},
		"a long zone":                      {proxy, []string{"fe80::1%" + strings.Repeat("x", 1000)}, "10.0.0.1"},
		"a long header":                    {proxy, []string{strings.Repeat("1.1.1.1,", 8000) + "198.51.100.1"}, "198.51.100.1"},
		"a long header of proxies":         {proxy, []string{"198.51.100.1" + strings.Repeat(",10.0.0.9", 8000)}, "10.0.0.9"},
		"a long header of nothing":         {proxy, []string{"198.51.100.1" + strings.Repeat(",", 60000)}, "10.0.0.1"},
		"a client of a Unix socket":        {"@", []string{"198.51.100.1"}, "@"},
		"a peer that cannot be understood": {"\x1b[2J", []string{"198.51.100.1"}, `\x1b[2J`},
		"no peer":                          {"", []string{"198.51.100.1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
			r.RemoteAddr = c.peer
			r.Header.Set("Forwarded", "for=192.0.2.99")
			r.Header["X-Forwarded-For"] = c.headers
			began := time.Now()
			client, _ := proxies.Client(r)
			if client != c.want {
				t.Errorf("got %q, want %q", client, c.want)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Without proxies, no header counts.
func TestNoProxies(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
	r.Header = http.Header{"X-Forwarded-For": {"198.51.100.1"}, "X-Real-Ip": {"198.51.100.1"}, "Forwarded": {"for=198.51.100.1"}}
	if client, peer := forwarded.Proxies(nil).Client(r); client != "192.0.2.1" || peer != "192.0.2.1" {
		t.Errorf("%s by %s", client, peer)
	}
}

func FuzzClient(f *testing.F) {
	f.Add("10.0.0.1:1", "1.1.1.1, [::1]:2, unknown")
	f.Fuzz(func(t *testing.T, peer, header string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", nil)
		r.RemoteAddr, r.Header = peer, http.Header{"X-Forwarded-For": {header}}
		client, connected := forwarded.Proxies{netip.MustParsePrefix("10.0.0.0/8")}.Client(r)
		if client != connected {
			if _, err := netip.ParseAddr(client); err != nil {
				t.Errorf("%q of %q: %q", header, peer, client)
			}
		}
	})
}
