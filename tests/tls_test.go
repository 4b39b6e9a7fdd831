package tests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// tlsFiles returns the lines of a pair of files in [server.tls].
func tlsFiles(certificate, key string) string {
	return fmt.Sprintf("[server.tls]\nserver_certificate_bundle = %q\nserver_private_key = %q\n", certificate, key)
}

// trusting returns a client with connections of its own.
func trusting(t *testing.T, pool *x509.CertPool, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// dialAs connects to an address as a client that looks for a host.
func dialAs(addr, host string) (*tls.Conn, error) {
	return tls.Dial("tcp", addr, &tls.Config{ServerName: host, InsecureSkipVerify: true})
}

// leafOf returns the certificate that an address serves.
func leafOf(t *testing.T, addr string) *x509.Certificate {
	t.Helper()
	var conn *tls.Conn
	harness.Must(t, harness.Again(t, func() (err error) {
		conn, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		return err
	}))
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// A renewed pair is served within 5 s. While half of it is in place the old one is, and
// the log says so once. A transfer goes on.
func TestTLSFilesAreReplaced(t *testing.T) {
	t.Parallel()
	authority := testutil.NewAuthority(t)
	first, renewed := time.Now().AddDate(1, 0, 0), time.Now().AddDate(2, 0, 0)
	certificate, key := authority.Issue("server", first)
	upstream, gate := upstreamtest.New(t), upstreamtest.NewGate()
	dgst := addRandom(t, upstream, "org/app", 4*mib, 31)
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib, gate))
	w := harness.StartWeir(t, tlsFiles(certificate, key)+block("mirror", upstream))
	w.Client = trusting(t, authority.Pool())
	transfer := w.Pull(t, blobPath("mirror/org/app", dgst))
	arrived(t, gate, 1)
	ends := func() time.Time { return leafOf(t, w.Addr).NotAfter }
	if !strings.HasPrefix(w.URL, "https://") || !ends().Equal(first.Truncate(time.Second).UTC()) {
		t.Fatalf("%s ends %s", w.URL, ends())
	}
	if got := w.Metric(t, "weir_tls_certificate_expiry_timestamp_seconds", "host", "localhost"); int64(got) != first.Unix() {
		t.Errorf("the metric is %f", got)
	}

	nextCertificate, nextKey := authority.Issue("next", renewed)
	harness.Must(t, os.Rename(nextCertificate, certificate))
	w.Logs(t, "does not go with server_private_key")
	time.Sleep(time.Second) // for further lines
	if n := w.Log.Count(`"level":"ERROR"`); n != 1 || !ends().Equal(first.Truncate(time.Second).UTC()) {
		t.Errorf("half a pair: %d errors, ends %s", n, ends())
	}
	begin := time.Now()
	harness.Must(t, os.Rename(nextKey, key))
	harness.Eventually(t, "the renewed certificate is served", func() bool { return ends().Equal(renewed.Truncate(time.Second).UTC()) })
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := w.Metric(t, "weir_tls_certificate_expiry_timestamp_seconds"); int64(got) != renewed.Unix() {
		t.Errorf("the metric is %f", got)
	}
	gate.Open()
	transfer.Whole(t, "a transfer that began with the first certificate", dgst)

	// A file that cannot be used changes nothing.
	for name, content := range map[string]string{"empty": "", "garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		harness.WriteFile(t, certificate, content)
		errors := w.Log.Count(`"level":"ERROR"`)
		harness.Eventually(t, name+" is noticed", func() bool {
			return w.Log.Count(`"level":"ERROR"`) > errors || w.Metric(t, "weir_config_last_reload_successful") == 0
		})
		if !ends().Equal(renewed.Truncate(time.Second).UTC()) {
			t.Errorf("%s: ends %s", name, ends())
		}
	}
}

// A Secret of Kubernetes changes both files at once: each is a link through a directory
// that is a link, too.
func TestTLSFilesOfKubernetes(t *testing.T) {
	t.Parallel()
	authority, dir := testutil.NewAuthority(t), t.TempDir()
	begin := time.Now()
	version := func(name string, years int) (until time.Time) {
		until = begin.AddDate(years, 0, 0)
		certificate, key := authority.Issue("server", until)
		harness.Must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		harness.Must(t, os.Rename(certificate, filepath.Join(dir, name, "tls.crt")))
		harness.Must(t, os.Rename(key, filepath.Join(dir, name, "tls.key")))
		symlink(t, name, filepath.Join(dir, "..data"))
		return until.Truncate(time.Second).UTC()
	}
	first := version("..1", 1)
	for _, name := range []string{"tls.crt", "tls.key"} {
		symlink(t, "..data/"+name, filepath.Join(dir, name))
	}
	w := harness.StartWeir(t, tlsFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")))
	if got := leafOf(t, w.Addr).NotAfter; !got.Equal(first) {
		t.Fatalf("it ends on %s", got)
	}
	for i, name := range []string{"..2", "..3"} {
		want := version(name, i+2)
		harness.Eventually(t, name, func() bool { return leafOf(t, w.Addr).NotAfter.Equal(want) })
	}
	if n := w.Log.Count(`"level":"ERROR"`); n > 0 {
		t.Errorf("%d errors", n)
	}
}

// TLS is turned on and off at a restart only, and the log says so. Everything else
// changes at once.
func TestTLSKeysAreLive(t *testing.T) {
	testutil.Long(t, "changes each key of a running mirror")
	t.Parallel()
	authority := testutil.NewAuthority(t)
	plain := harness.StartWeir(t, "")
	harness.WriteFile(t, plain.Config, "[server.tls]\nself_signed = true\n")
	plain.Logs(t, "take effect only at the next restart", "server.tls")
	if a := plain.Get(t, "/v2/"); a.Status != http.StatusOK {
		t.Errorf("plain: %d", a.Status)
	}

	w := harness.StartWeir(t, "[server.tls]\nself_signed = true\n")
	own := leafOf(t, w.Addr)
	pool := x509.NewCertPool()
	pool.AddCert(own)
	ask := func(client *http.Client) string {
		resp, err := client.Get(w.URL + "/v2/")
		if err != nil {
			return "refused"
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Proto
	}
	pair, err := tls.LoadX509KeyPair(authority.Issue("client", time.Now().AddDate(1, 0, 0)))
	harness.Must(t, err)
	anyone, known := trusting(t, pool), trusting(t, pool, pair)
	for _, step := range []struct{ table, anyone, known string }{
		{"self_signed = true\n", "HTTP/1.1", "HTTP/1.1"},
		{"self_signed = true\nhttp2 = true\n", "HTTP/2.0", "HTTP/2.0"},
		{"self_signed = true\nhttp2 = false\n", "HTTP/1.1", "HTTP/1.1"},
		{fmt.Sprintf("self_signed = true\nclient_auth = \"required\"\nclient_ca_bundle = %q\n", authority.File()), "refused", "HTTP/1.1"},
		{fmt.Sprintf("self_signed = true\nclient_auth = \"optional\"\nclient_ca_bundle = %q\n", authority.File()), "HTTP/1.1", "HTTP/1.1"},
	} {
		harness.WriteFile(t, w.Config, "[server.tls]\n"+step.table)
		harness.Eventually(t, step.table, func() bool { return ask(anyone) == step.anyone && ask(known) == step.known })
		healthy(t, w)
	}
	// To files: another certificate, without a restart.
	harness.WriteFile(t, w.Config, tlsFiles(authority.Issue("server", time.Now().AddDate(1, 0, 0))))
	files := trusting(t, authority.Pool())
	harness.Eventually(t, "the files are served", func() bool { return ask(files) == "HTTP/1.1" })
	harness.WriteFile(t, w.Config, "[log]\nlevel = \"debug\"\n")
	w.Logs(t, "take effect only at the next restart", "server.tls")
	if got := ask(files); got != "HTTP/1.1" {
		t.Errorf("after TLS was turned off: %s", got)
	}
	healthy(t, w)
}

// healthy fails the test unless weir healthcheck is content with a mirror.
func healthy(t *testing.T, w *harness.Weir) {
	t.Helper()
	base := filepath.Join(filepath.Dir(w.Config), "base.toml")
	for _, flags := range [][]string{nil, {"--ready"}} {
		harness.Run(t, exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"healthcheck", "--config", base, "--config", w.Config}, flags...)...))
	}
}

// A restart keeps the certificate that clients trust. Another user's eyes do not see its
// key.
func TestSelfSignedSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const config = "[server.tls]\nself_signed = true\n"
	w := harness.StartWeirIn(t, dir, config)
	first := leafOf(t, w.Addr)
	healthy(t, w)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w = harness.StartWeirIn(t, dir, config)
	if !leafOf(t, w.Addr).Equal(first) {
		t.Error("another certificate after a restart")
	}
	if info, err := os.Stat(filepath.Join(w.Data, "tls", "server.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	w.Client = trusting(t, poolOf(first))
	if got := w.Metric(t, "weir_tls_certificate_expiry_timestamp_seconds"); int64(got) != first.NotAfter.Unix() {
		t.Errorf("the metric is %f", got)
	}
}

func poolOf(c *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

// Scanners leave no trace in the log at the usual level, and hold no connection.
func TestScannersOfTLS(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, "[log]\nlevel = \"info\"\n[server.tls]\nself_signed = true\n")
	w.Logs(t, `"msg":"listening"`)
	before := strings.Count(w.Log.String(), "\n")
	for _, sent := range []string{"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01", "\x00\x00\x00\x00", "SSH-2.0-x\r\n", ""} {
		for range 50 {
			conn, err := net.Dial("tcp", w.Addr)
			harness.Must(t, err)
			_, _ = io.WriteString(conn, sent)
			conn.Close()
		}
	}
	// A person who forgot the s is told so.
	resp, err := http.Get("http://" + w.Addr + "/v2/")
	harness.Must(t, err)
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "HTTPS") {
		t.Errorf("plain HTTP: %d %s", resp.StatusCode, text)
	}
	if n := strings.Count(w.Log.String(), "\n") - before; n > 0 {
		t.Errorf("%d lines in the log", n)
	}
}

// weir check --online shows what clients of the mirror see.
func TestCheckOfTheServedCertificate(t *testing.T) {
	t.Parallel()
	authority := testutil.NewAuthority(t)
	year := time.Now().AddDate(1, 0, 0)
	for name, c := range map[string]struct {
		until   time.Time
		change  func(*x509.Certificate)
		running bool
		code    int
		says    string
	}{
		"good":          {until: year, running: true, says: "from https://127.0.0.1:"},
		"not running":   {until: year, says: "no mirror answers, so the file was read"},
		"ends soon":     {until: time.Now().Add(100 * time.Hour), running: true, says: "it expires on"},
		"expired":       {until: time.Now().Add(-time.Hour), running: true, code: 1, says: "it expired on"},
		"without names": {until: year, change: func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, code: 1, says: "no subject alternative name"},
		"not yet":       {until: year, change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, code: 1, says: "it is not valid before"},
		"private":       {until: year, says: "its authority is not public"},
	} {
		t.Run(name, func(t *testing.T) {
			change := func(x *x509.Certificate) {
				x.NotBefore = time.Now().AddDate(-1, 0, 0)
				if c.change != nil {
					c.change(x)
				}
			}
			certificate, key := authority.IssueAs(strings.ReplaceAll(name, " ", "-"), c.until, change)
			dir := t.TempDir()
			config := tlsFiles(certificate, key) + blockOf("ghcr.io", []string{"offline = true"}, []string{`url = "https://ghcr.io"`})
			if c.running {
				harness.StartWeirIn(t, dir, config)
			} else {
				harness.WriteFile(t, filepath.Join(dir, "config.toml"), config)
				harness.WriteFile(t, filepath.Join(dir, "base.toml"), "[server]\nport = 1\n[blob_store.fs]\nroot_dir = \"data\"\n")
			}
			got := command(t, dir, "check", "--online", "--config", "base.toml", "--config", "config.toml")
			if text := strings.Join(strings.Fields(got.stdout), " "); got.code != c.code || !strings.Contains(text, c.says) {
				t.Errorf("code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
}

// Names of strangers in handshakes, and hostile names in certificates of clients, change
// nothing but the certificate's own answers, and break no line of the log.
func TestOddNamesInHandshakes(t *testing.T) {
	t.Parallel()
	authority := testutil.NewAuthority(t)
	w := harness.StartWeir(t, fmt.Sprintf("[server.tls]\nself_signed = true\nclient_auth = \"optional\"\nclient_ca_bundle = %q\n[auth]\nanonymous = false\n", authority.File()))
	own := leafOf(t, w.Addr)
	for _, name := range []string{"localhost", "other.test", "../../etc/passwd", "*", "a\x00b", "\r\nX: y", "\u202e", strings.Repeat("a.", 125) + "test", strings.Repeat("x", 4000), "xn--", "-", ".."} {
		conn, err := dialAs(w.Addr, name)
		if err != nil {
			continue // the client itself does not send some of them
		}
		if !conn.ConnectionState().PeerCertificates[0].Equal(own) {
			t.Errorf("%q gets another certificate", name)
		}
		conn.Close()
	}
	var known tls.Certificate
	for i, name := range []string{"alice\nlevel=ERROR msg=forged", "\x1b[2J", "\u202egnp", strings.Repeat("n", 60)} {
		pair, err := tls.LoadX509KeyPair(authority.IssueAs(fmt.Sprint("client", i), time.Now().AddDate(1, 0, 0), func(c *x509.Certificate) {
			c.Subject.CommonName, c.Subject.Organization = name, []string{name}
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/" + name}}
		}))
		harness.Must(t, err)
		known = pair
		resp, err := trusting(t, poolOf(own), pair).Get(w.URL + "/v2/_catalog")
		harness.Must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%q: %s", name, resp.Status)
		}
	}
	w.Logs(t, `"user":"cert:alice\nlevel=ERROR msg=forged"`)
	for line := range strings.Lines(w.Log.String()) {
		if !json.Valid([]byte(line)) || strings.ContainsAny(line[:len(line)-1], "\x1b\u202e\r\n") {
			t.Errorf("the log has the line %q", line)
		}
	}
	w.Client = trusting(t, poolOf(own), known)
	if metrics := string(w.Get(t, "/metrics").Body); !strings.Contains(metrics, "weir_auth_total") || strings.Contains(metrics, "forged") || strings.Contains(metrics, "other.test") {
		t.Error("a metric has the name of a stranger")
	}
}

// weir check --online and weir healthcheck work with every kind of certificate.
func TestChecksOfEveryKindOfCertificate(t *testing.T) {
	t.Parallel()
	authority := testutil.NewAuthority(t)
	required := fmt.Sprintf("client_auth = \"required\"\nclient_ca_bundle = %q\n", authority.File())
	for name, c := range map[string]struct {
		table   string
		running bool
		says    string
	}{
		"self-signed":                           {"[server.tls]\nself_signed = true\n", true, "from https://127.0.0.1:"},
		"self-signed, with client certificates": {"[server.tls]\nself_signed = true\n" + required, true, "from https://127.0.0.1:"},
		"self-signed, not made yet":             {"[server.tls]\nself_signed = true\n", false, "creates its self-signed certificate at its first start"},
		"files, with client certificates":       {tlsFiles(authority.Issue("server", time.Now().AddDate(1, 0, 0))) + required, true, "for localhost, 127.0.0.1"},
		"HTTP/2":                                {"[server.tls]\nself_signed = true\nhttp2 = true\n", true, "from https://127.0.0.1:"},
		"of an authority that is away": {fmt.Sprintf("[server.tls.acme]\nhosts = [\"mirror.example.test\"]\ndirectory_url = \"https://%s/dir\"\n", testutil.FreeAddr(t)), true,
			"no running mirror answers with a certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			config := c.table + blockOf("ghcr.io", []string{"offline = true"}, []string{`url = "https://ghcr.io"`})
			if c.running {
				healthy(t, harness.StartWeirIn(t, dir, config))
			} else {
				harness.WriteFile(t, filepath.Join(dir, "config.toml"), config)
				harness.WriteFile(t, filepath.Join(dir, "base.toml"), "[server]\nport = 1\n[blob_store.fs]\nroot_dir = \"data\"\n")
			}
			got := command(t, dir, "check", "--online", "--config", "base.toml", "--config", "config.toml")
			if text := strings.Join(strings.Fields(got.stdout), " "); got.code != 0 || !strings.Contains(text, c.says) {
				t.Errorf("code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
}

// helloOf returns the first message of a client, which costs its sender nothing to send
// again, and the server a key exchange and a signature.
func helloOf(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{ServerName: "localhost"}).Handshake()
		far.Close()
	}()
	hello := make([]byte, 16<<10)
	n, err := near.Read(hello)
	harness.Must(t, err)
	return hello[:n]
}

// from returns a client with an address of its own, which trusts every mirror.
func from(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A stranger floods the mirror with handshakes, and others hold as many open as they can.
// Clients that are connected are served, and new ones get in.
func TestFloodOfHandshakes(t *testing.T) {
	testutil.Long(t, "floods a mirror for some seconds, and compares with a quiet one")
	w := harness.StartWeir(t, "[server.tls]\nself_signed = true\n")
	connected := from(t, "127.0.0.2")
	// worst returns the time of the slowest of some requests of the client that is connected,
	// and of new ones.
	worst := func() (old, fresh time.Duration) {
		for range 40 {
			for client, slowest := range map[*http.Client]*time.Duration{connected: &old, from(t, "127.0.0.3"): &fresh} {
				begin := time.Now()
				resp, err := client.Get(w.URL + "/v2/")
				harness.Must(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				*slowest = max(*slowest, time.Since(begin))
			}
		}
		return old, fresh
	}
	worst() // the first connection
	quietOld, quietFresh := worst()

	hello := helloOf(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var flood sync.WaitGroup
	var sent atomic.Int64
	for range 64 {
		flood.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.Dial("tcp", w.Addr)
				if err != nil {
					continue
				}
				_, _ = conn.Write(hello)
				_, _ = conn.Read(make([]byte, 1)) // the mirror has computed its part
				conn.Close()
				sent.Add(1)
			}
		})
	}
	harness.Eventually(t, "the flood has begun", func() bool { return sent.Load() > 100 })
	begin, before := time.Now(), sent.Load()
	floodedOld, floodedFresh := worst()
	rate := float64(sent.Load()-before) / time.Since(begin).Seconds()
	cancel()
	flood.Wait()
	t.Logf("slowest request of 40: connected %s, with %.0f handshakes/s %s; new connection %s, with the flood %s", quietOld, rate, floodedOld, quietFresh, floodedFresh)
	if floodedOld > 20*time.Second || floodedFresh > 20*time.Second {
		t.Error("the flood holds up others")
	}

	// Silent ones: those of one network have half of the places at most.
	const silent, places = 1200, 1024
	var conns []net.Conn
	for range silent {
		conn, err := net.Dial("tcp", w.Addr)
		harness.Must(t, err)
		defer conn.Close()
		conns = append(conns, conn)
	}
	for _, conn := range conns[:silent-places] { // the oldest make room
		_ = conn.SetReadDeadline(time.Now().Add(harness.Patience))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a silent connection beyond the limit stays open")
		}
	}
	worst()
	w.Client = connected
	if n := w.Metric(t, "weir_tls_handshakes_total", "result", "refused"); n < silent-places {
		t.Errorf("%v handshakes made room", n)
	}
	w.Logs(t, "too many TLS handshakes are in progress")
}
