package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// leading are the ways in which an upstream leads to another host.
var leading = map[string]func(location string) []upstreamtest.Effect{
	"redirect": func(location string) []upstreamtest.Effect {
		return []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", location)}
	},
	"realm": func(location string) []upstreamtest.Effect {
		return []upstreamtest.Effect{upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Bearer realm="`+location+`"`)}
	},
}

// An upstream leads to hosts of its own zone and to public ones. No other host gets a
// request, and none the credentials.
func TestLeadingElsewhere(t *testing.T) {
	for _, c := range []struct {
		upstream, target string
		all, reached     bool
	}{
		{"8.8.8.8", "1.1.1.1", false, true},
		{"8.8.8.8", "[2606:4700::1111]", false, true},
		{"8.8.8.8", "127.0.0.1", false, false},
		{"8.8.8.8", "127.0.0.1", true, true},
		{"8.8.8.8", "0.0.0.0", false, false},
		{"8.8.8.8", "[::1]", false, false},
		{"8.8.8.8", "[::ffff:127.0.0.1]", false, false},
		{"8.8.8.8", "10.0.0.2", false, false},
		{"8.8.8.8", "10.0.0.2", true, true},
		{"8.8.8.8", "100.64.0.1", false, false},
		{"8.8.8.8", "[fd00::1]", false, false},
		{"8.8.8.8", "[64:ff9b::10.0.0.1]", false, false},
		{"8.8.8.8", "[2002:a00:1::1]", false, false},
		{"8.8.8.8", "224.0.0.1", false, false},
		{"8.8.8.8", "255.255.255.255", false, false},
		{"8.8.8.8", "169.254.169.254", false, false},
		{"8.8.8.8", "169.254.169.254", true, false},
		{"8.8.8.8", "[fe80::1]", true, false},
		{"8.8.8.8", "[fd00:ec2::254]", true, false},
		{"10.0.0.1", "10.0.0.2", false, true},
		{"10.0.0.1", "192.168.0.1", false, true},
		{"10.0.0.1", "8.8.8.8", false, true},
		{"10.0.0.1", "127.0.0.1", false, false},
		{"10.0.0.1", "169.254.169.254", false, false},
		{"127.0.0.1", "127.0.0.2", false, true},
		{"127.0.0.1", "[::1]", false, true},
		{"127.0.0.1", "10.0.0.1", false, false},
		{"127.0.0.1", "169.254.169.254", true, false},
		{"169.254.0.1", "169.254.169.254", true, false},
	} {
		for way, effects := range leading {
			t.Run(fmt.Sprintf("%s from %s to %s, all %v", way, c.upstream, c.target, c.all), func(t *testing.T) {
				inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
					r := upstreamtest.New(t, upstreamtest.WithNetwork(n, c.upstream))
					other := upstreamtest.New(t, upstreamtest.WithNetwork(n, c.target+":80"))
					r.Fault(upstreamtest.Any, effects("http://"+c.target+"/secret")...)
					client := newClient(t, r, on(n), withCredentials, func(o *upstream.Options) { o.AllowPrivateRedirects = c.all })
					_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
					if reached := len(other.Log()) > 0; reached != c.reached {
						t.Errorf("reached %v: %v", reached, err)
					}
					e := wantError(t, err, upstream.ErrUnavailable)
					refused := e.Remedy() == upstream.AdmitPrivate || e.Remedy() == upstream.NeverAdmitted
					if refused == c.reached {
						t.Errorf("refused %v: %v", refused, err)
					}
				})
			})
		}
	}
}

// conn is a connection whose other end has an IP address, which DNS has given.
type conn struct {
	net.Conn
	remote net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.remote }

// resolving lets a client dial names on a network in memory. The resolver tells their
// addresses.
func resolving(n *upstreamtest.Network, resolve func(host string) string) func(*upstream.Options) {
	return func(o *upstream.Options) {
		o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := n.DialContext(ctx, network, addr)
			host, _, _ := net.SplitHostPort(addr)
			return conn{c, &net.TCPAddr{IP: net.ParseIP(resolve(host)), Port: 80}}, err
		}
	}
}

// The address that is connected to decides, not what DNS said before.
func TestRebinding(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		cdn := upstreamtest.New(t, upstreamtest.WithNetwork(n, "cdn.test"))
		cdn.AddImage("repo", "latest", []byte("layer"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(307, ""), upstreamtest.Header("Location", cdn.URL.String()+"/v2/repo/manifests/latest"))
		var inside, registryInside atomic.Bool
		client := newClient(t, r, resolving(n, func(host string) string {
			if host == "cdn.test" && inside.Load() || host == "registry.test" && registryInside.Load() {
				return "127.0.0.1"
			}
			return "8.8.8.8"
		}))
		pull := func() error {
			_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			return err
		}
		if err := pull(); err != nil {
			t.Fatal(err)
		}
		inside.Store(true)
		time.Sleep(10 * time.Minute) // the connections are too old by then
		cdn.ResetRequests()
		for range 3 {
			if e := wantError(t, pull(), upstream.ErrUnavailable); e.Remedy() != upstream.AdmitPrivate || len(cdn.Log()) > 0 {
				t.Errorf("got %v, and %d requests", e, len(cdn.Log()))
			}
		}
		// An answer over a connection to a public address leads to no private one, whatever
		// the name of the upstream means by now.
		registryInside.Store(true)
		wantError(t, pull(), upstream.ErrUnavailable)
		if len(cdn.Log()) > 0 {
			t.Errorf("%d requests", len(cdn.Log()))
		}
	})
}

// The zone of an upstream that is called by its name is that of its address.
func TestPrivateUpstreamByName(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.corp.example"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		storage := upstreamtest.New(t, upstreamtest.WithNetwork(n, "storage.corp.example"))
		storage.AddImage("repo", "latest", []byte("layer"))
		token := upstreamtest.All(upstreamtest.Manifests, withToken)
		r.Fault(token, upstreamtest.Status(307, ""), upstreamtest.Header("Location", storage.URL.String()+"/v2/repo/manifests/latest"))
		client := newClient(t, r, resolving(n, func(host string) string {
			return map[string]string{"registry.corp.example": "10.0.0.1", "storage.corp.example": "192.168.7.7"}[host]
		}))
		for range 2 { // the second time the challenge is known
			if _, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest")); err != nil {
				t.Error(err)
			}
			time.Sleep(6 * time.Minute)
		}
	})
}

// A real connection is refused before its first packet.
func TestDialIsRefused(t *testing.T) {
	for _, target := range []string{
		"169.254.169.254", "[fe80::1%25lo]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "10.0.0.1", "[::ffff:10.0.0.1]", "100.64.0.1", "255.255.255.255", "224.0.0.1", "[ff02::1%25lo]",
	} {
		for way := range leading {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if way == "redirect" {
					w.Header().Set("Location", "http://"+target+"/latest")
					w.WriteHeader(http.StatusTemporaryRedirect)
				} else {
					w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+target+`/latest"`)
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			at, _ := url.Parse(server.URL)
			client := upstream.NewClient(upstream.Options{URL: at, MaxRedirects: 5})
			_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			if e := wantError(t, err, upstream.ErrUnavailable); e.Remedy() != upstream.AdmitPrivate && e.Remedy() != upstream.NeverAdmitted {
				t.Errorf("%s to %s: %v", way, target, err)
			}
			client.Close()
			server.Close()
		}
	}
}

// A proxy resolves names itself, so the names decide. The proxy may be at any address.
func TestLeadingElsewhereThroughProxy(t *testing.T) {
	for target, reached := range map[string]bool{
		"storage.example": true, "8.8.8.8": true,
		"127.0.0.1": false, "localhost": false, "LOCALHOST.": false, "a.localhost": false, "127.1": false, "0x7f.1": false, "2130706433": false, "[::1]": false,
		"10.0.0.1": false, "minio": false, "db.corp.internal": false, "169.254.169.254": false, "metadata.google.internal": false, "１２７.0.0.1": false,
	} {
		for way := range leading {
			t.Run(way+" to "+target, func(t *testing.T) {
				var asked []string
				proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked = append(asked, r.URL.Hostname())
					switch {
					case r.URL.Hostname() != "registry.example":
						io.WriteString(w, "{}")
					case way == "redirect":
						w.Header().Set("Location", "http://"+target+"/latest")
						w.WriteHeader(http.StatusTemporaryRedirect)
					default:
						w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+target+`/latest"`)
						w.WriteHeader(http.StatusUnauthorized)
					}
				}))
				defer proxy.Close()
				at, _ := url.Parse(proxy.URL)
				client := upstream.NewClient(upstream.Options{URL: &url.URL{Scheme: "http", Host: "registry.example"}, Proxy: at, MaxRedirects: 5})
				defer client.Close()
				_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				wantError(t, err, upstream.ErrUnavailable)
				if got := len(asked) > 1; got != reached {
					t.Errorf("the proxy was asked for %q: %v", asked, err)
				}
			})
		}
	}
}

// Words of another host than the upstream's do not become messages.
func TestForeignWords(t *testing.T) {
	for name, effects := range map[string][]upstreamtest.Effect{
		"plain text":         {upstreamtest.Status(500, "secret")},
		"a document":         {upstreamtest.Status(403, `{"errors":[{"code":"DENIED","message":"secret"}]}`)},
		"a code":             {upstreamtest.Status(400, `{"errors":[{"code":"SECRET","message":"secret"}]}`)},
		"JSON":               {upstreamtest.Status(200, `{"secret":1}`)},
		"other JSON":         {upstreamtest.Status(200, `["secret"]`)},
		"text":               {upstreamtest.Status(200, "secret")},
		"tags in capitals":   {upstreamtest.Status(200, `{"Tags":["secret"]}`)},
		"a token of another": {upstreamtest.Status(200, `{"Token":"secret","Access_Token":"secret"}`)},
		"a range":            {upstreamtest.Status(206, `{}`), upstreamtest.Header("Content-Range", "secret")},
	} {
		for way, leads := range leading {
			t.Run(name+", "+way, func(t *testing.T) {
				r, other := upstreamtest.New(t), upstreamtest.New(t)
				other.Fault(upstreamtest.Any, effects...)
				r.Fault(upstreamtest.Any, leads(other.URL.String()+"/x")...)
				client := newClient(t, r)
				image := r.AddImage("repo", "latest", []byte("layer"))
				for _, q := range questions(image, r.AddBlob("repo", blob)) {
					if err := q.ask(t.Context(), client, "repo"); err != nil && strings.Contains(strings.ToLower(err.Error()), "secret") {
						t.Errorf("%s: %v", q.name, err)
					}
				}
				if list, err := client.Tags(t.Context(), "repo", nil); err == nil && len(list.Tags) > 0 {
					t.Errorf("tags are %q", list.Tags)
				}
				for _, authorization := range append(r.Authorizations(), other.Authorizations()...) {
					if strings.Contains(authorization, "secret") {
						t.Error("a token of another service was sent")
					}
				}
			})
		}
	}
}

// The greeting of a server that speaks no HTTP does not become a message either.
func TestForeignGreeting(t *testing.T) {
	for _, greeting := range []string{"SSH-2.0-secret\r\n", "-ERR secret\r\n", "HTTP/1.1 2x0 secret\r\n\r\n", "HTTP/1.1 200 OK\r\nsecret\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n"} {
		listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 4<<10)) // the request
				io.WriteString(c, greeting)
				c.Close()
			}
		}()
		r := upstreamtest.New(t)
		r.Fault(upstreamtest.Any, leading["redirect"]("http://"+listener.Addr().String())...)
		_, err := newClient(t, r).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if wantError(t, err, upstream.ErrUnavailable); strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "SSH") {
			t.Errorf("%q: %v", greeting, err)
		}
		listener.Close()
	}
}
