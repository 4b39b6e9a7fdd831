package door_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/testutil"
)

// house is a server behind a door.
type house struct {
	*door.Door
	t    *testing.T
	addr string
	own  *testutil.Authority // of the server's certificate
}

func build(t *testing.T, s door.Settings) *house {
	t.Helper()
	h := &house{t: t, own: testutil.NewAuthority(t)}
	if s.Source == nil {
		s.Source = h.source("server", year())
	}
	var err error
	if h.Door, err = door.New(s); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = listener.Addr().String()
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, text+" "+r.Proto)
		})
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler: h.Guard(answer("content"), answer("probe")), ConnContext: h.ConnContext, Protocols: protocols,
		ReadHeaderTimeout: time.Second, ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { _ = server.Serve(h.Listener(listener, slog.New(slog.DiscardHandler))) }()
	t.Cleanup(func() { server.Close() })
	return h
}

func year() time.Time { return time.Now().AddDate(1, 0, 0) }

func (h *house) source(name string, until time.Time) door.Source {
	h.t.Helper()
	source, err := door.NewFixed(load(h.t, h.own, name, until, func(*x509.Certificate) {}))
	if err != nil {
		h.t.Fatal(err)
	}
	return source
}

func load(t *testing.T, of *testutil.Authority, name string, until time.Time, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(of.IssueAs(name, until, change))
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// client returns a client that trusts the house, and keeps its connections.
func (h *house) client(change func(*tls.Config)) *http.Client {
	settings := &tls.Config{RootCAs: h.own.Pool()}
	change(settings)
	transport := &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: settings.NextProtos == nil}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (h *house) ask(client *http.Client) (string, error) {
	resp, err := client.Get("https://" + h.addr + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// Each kind of client meets each kind of rule.
func TestHandshakes(t *testing.T) {
	authority, other := testutil.NewAuthority(t), testutil.NewAuthority(t)
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	none := func(*tls.Config) {}
	with := func(certificate *tls.Certificate) func(*tls.Config) {
		return func(c *tls.Config) {
			// The client shows it although the server names other authorities.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
		}
	}
	protocols := func(names ...string) func(*tls.Config) {
		return func(c *tls.Config) { c.NextProtos = names }
	}
	const one, two, refused = "content HTTP/1.1", "content HTTP/2.0", "refused"
	clients := map[string]struct {
		change                              func(*tls.Config)
		open, optional, required, withHTTP2 string
	}{
		"no certificate":         {none, one, one, refused, two},
		"certificate":            {with(load(t, authority, "c", year(), none509)), one, one, one, two},
		"client usage alone":     {with(load(t, authority, "c", year(), usage(x509.ExtKeyUsageClientAuth))), one, one, one, two},
		"server usage alone":     {with(load(t, authority, "c", year(), usage(x509.ExtKeyUsageServerAuth))), one, refused, refused, two},
		"of another authority":   {with(load(t, other, "c", year(), none509)), one, refused, refused, two},
		"expired":                {with(load(t, authority, "c", time.Now().Add(-time.Hour), none509)), one, refused, refused, two},
		"not valid yet":          {with(load(t, authority, "c", year(), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), one, refused, refused, two},
		"TLS 1.2":                {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, one, one, refused, two},
		"TLS 1.1":                {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, refused, refused, refused, refused},
		"HTTP/1.1 alone":         {protocols("http/1.1"), one, one, refused, one},
		"unknown protocol":       {protocols("imap"), refused, refused, refused, refused},
		"probe":                  {protocols(door.Probe), "probe HTTP/1.1", "probe HTTP/1.1", "probe HTTP/1.1", "probe HTTP/1.1"},
		"probe and HTTP":         {protocols(door.Probe, "http/1.1"), one, one, refused, one},
		"challenge alone":        {protocols("acme-tls/1"), refused, refused, refused, refused},
		"challenge and HTTP":     {protocols("acme-tls/1", "http/1.1"), one, one, refused, one},
		"other name than served": {func(c *tls.Config) { c.ServerName = "localhost" }, one, one, refused, two},
	}
	for rule, s := range map[string]door.Settings{
		"open": {}, "optional": {ClientCAs: authority.Pool()}, "required": {ClientCAs: authority.Pool(), RequireClient: true}, "HTTP/2": {HTTP2: true},
	} {
		h := build(t, s)
		for name, c := range clients {
			change := func(settings *tls.Config) {
				c.change(settings)
				settings.InsecureSkipVerify = strings.HasPrefix(name, "probe") // it proves nothing
			}
			got, err := h.ask(h.client(change))
			if err != nil {
				got = refused
			}
			if want := map[string]string{"open": c.open, "optional": c.optional, "required": c.required, "HTTP/2": c.withHTTP2}[rule]; got != want {
				t.Errorf("%s, client with %s: %s, want %s (%v)", rule, name, got, want, err)
			}
		}
	}
}

func none509(*x509.Certificate) {}

// A connection that stays open is bound to the rules in force, not to those of its
// handshake. Its client may connect again.
func TestOpenConnectionsMeetNewRules(t *testing.T) {
	authority, other := testutil.NewAuthority(t), testutil.NewAuthority(t)
	certificate := load(t, authority, "c", year(), none509)
	trusting := door.Settings{ClientCAs: authority.Pool()}
	for name, c := range map[string]struct {
		certificate   bool
		before, after door.Settings
		kept          bool // the connection
	}{
		"the same":                        {true, trusting, door.Settings{ClientCAs: authority.Pool()}, true},
		"another authority":               {true, trusting, door.Settings{ClientCAs: other.Pool()}, false},
		"no authority":                    {true, trusting, door.Settings{}, false},
		"required, with one":              {true, trusting, door.Settings{ClientCAs: authority.Pool(), RequireClient: true}, true},
		"required, without":               {false, trusting, door.Settings{ClientCAs: authority.Pool(), RequireClient: true}, false},
		"asked for, without":              {false, door.Settings{}, trusting, true},
		"another certificate of the door": {false, door.Settings{}, door.Settings{}, true},
	} {
		for _, http2 := range []bool{false, true} {
			c.before.HTTP2, c.after.HTTP2 = http2, http2
			h := build(t, c.before)
			c.after.Source = h.source("second", year())
			served := 0
			client := h.client(func(s *tls.Config) {
				if c.certificate {
					s.Certificates = []tls.Certificate{*certificate}
				}
				s.VerifyConnection = func(tls.ConnectionState) error { served++; return nil }
			})
			if _, err := h.ask(client); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			h.Set(c.after)
			got, err := h.ask(client)
			if kept := err == nil && strings.HasPrefix(got, "content") && served == 1; kept != c.kept {
				t.Errorf("%s, HTTP/2 %v: kept %v, want %v (%d handshakes, %q, %v)", name, http2, kept, c.kept, served, got, err)
			}
			if c.kept {
				continue
			}
			// A client that was refused makes a new connection, and shows what it has now.
			if _, err := h.ask(client); served != 2 && err == nil {
				t.Errorf("%s, HTTP/2 %v: the old connection is used again", name, http2)
			}
		}
	}
}

// The end of a certificate is the end of the first one in its chain.
func TestServed(t *testing.T) {
	authority := testutil.NewAuthority(t)
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		host   string
	}{
		"names":     {func(c *x509.Certificate) { c.DNSNames = []string{"mirror.example.com", "other"} }, "mirror.example.com"},
		"addresses": {func(c *x509.Certificate) { c.DNSNames = nil }, "127.0.0.1"},
		"neither":   {func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, "server"},
	} {
		until := time.Now().Add(time.Hour).Truncate(time.Second)
		pair := load(t, authority, "server", until, c.change)
		short := load(t, authority, "between", until.Add(-time.Minute), none509)
		for _, chain := range [][][]byte{{pair.Certificate[0]}, {pair.Certificate[0], short.Certificate[0]}} {
			source, err := door.NewFixed(&tls.Certificate{Certificate: chain, PrivateKey: pair.PrivateKey})
			if err != nil {
				t.Fatal(err)
			}
			want := until.Add(-time.Minute * time.Duration(len(chain)-1))
			if got := source.Served()[0]; got.Host != c.host || !got.Ends.Equal(want) {
				t.Errorf("%s, chain of %d: %+v, want %s until %s", name, len(chain), got, c.host, want)
			}
		}
	}
}
