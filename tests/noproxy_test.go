package tests

import (
	"net/url"
	"testing"

	"golang.org/x/net/http/httpproxy"
)

// The deployment page tells the meaning of NO_PROXY in Go's standard library, which
// Weir uses.
func TestDocsNoProxy(t *testing.T) {
	t.Parallel()
	for entry, hosts := range map[string]struct{ direct, proxied []string }{
		"":                          {[]string{"localhost", "127.0.0.1:5000", "[::1]"}, []string{"registry.example.com", "192.0.2.7"}},
		"example.com":               {[]string{"example.com", "registry.example.com", "EXAMPLE.com:5000"}, []string{"other-example.com", "example.com.test"}},
		".example.com":              {[]string{"registry.example.com"}, []string{"example.com"}},
		"*.example.com":             {[]string{"registry.example.com", "a.b.example.com"}, []string{"example.com"}},
		"registry.example.com:5000": {[]string{"registry.example.com:5000"}, []string{"registry.example.com"}},
		"192.0.2.7, 2001:db8::7":    {[]string{"192.0.2.7", "192.0.2.7:5000", "[2001:db8::7]"}, []string{"192.0.2.70", "example.com"}},
		"192.0.2.0/24":              {[]string{"192.0.2.9:443"}, []string{"192.0.3.1", "example.com"}},
		"2001:db8::/32":             {[]string{"[2001:db8::9]"}, []string{"[2001:db9::1]"}},
		"*":                         {[]string{"example.com", "192.0.2.7"}, nil},
		"registry-*.example.com":    {nil, []string{"registry-1.example.com"}},
		"10.*":                      {nil, []string{"10.0.0.1"}},
	} {
		proxyOf := (&httpproxy.Config{HTTPSProxy: "http://proxy:3128", NoProxy: entry}).ProxyFunc()
		for want, list := range map[bool][]string{false: hosts.direct, true: hosts.proxied} {
			for _, host := range list {
				if proxy, err := proxyOf(&url.URL{Scheme: "https", Host: host}); (proxy != nil) != want || err != nil {
					t.Errorf("NO_PROXY=%s: %s goes through %v, %v", entry, host, proxy, err)
				}
			}
		}
	}
}
