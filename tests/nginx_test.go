package tests

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// proxy is an nginx that speaks TLS in front of a mirror.
type proxy struct {
	url   string
	roots *x509.CertPool
}

// startNginx runs the page's nginx, but for addresses and paths and for pairs of texts
// to replace, in front of a mirror.
func startNginx(t *testing.T, w *harness.Weir, replace ...string) *proxy {
	t.Helper()
	nginx := testutil.Program(t, "nginx", "nginx-light")
	server := readPage(t, "../docs/deployment.md").code("nginx")[0]
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(server, replace[i]) {
			t.Fatalf("the page's nginx lacks %q", replace[i])
		}
	}
	dir := harness.SocketDir(t, "nginx-")
	addr := testutil.FreeAddr(t)
	ca := newAuthority(t)
	certificate, key := ca.issue(t, "nginx")
	config := strings.NewReplacer(append(replace, "listen 443 ", "listen "+addr+" ", "/etc/ssl/mirror.crt", certificate, "/etc/ssl/mirror.key", key,
		"127.0.0.1:8000", w.Addr)...).Replace(server)
	file := filepath.Join(dir, "nginx.conf")
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s;\n", kind, dir)
	}
	harness.WriteFile(t, file, fmt.Sprintf("user root;\ndaemon off;\nworker_processes 1;\npid %[1]s/pid;\nerror_log stderr;\nworker_rlimit_nofile 4096;\n"+
		"events { worker_connections 2048; }\nhttp {\naccess_log off;\n%[2]s%[3]s}\n", dir, temporary, config))
	harness.StartDaemon(t, exec.CommandContext(t.Context(), nginx, "-c", file, "-p", dir, "-e", "stderr"))
	p := &proxy{url: "https://" + addr, roots: x509.NewCertPool()}
	p.roots.AddCert(ca.certificate)
	harness.Eventually(t, "nginx answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return p
}

// client returns a client with an address of its own. All of 127.0.0.0/8 are this
// machine's.
func (p *proxy) client(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots}, DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// open sends a request, whose answer must have a status.
func (p *proxy) open(t *testing.T, client *http.Client, path string, status int) *http.Response {
	t.Helper()
	resp, err := client.Get(p.url + path)
	harness.Must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != status {
		t.Errorf("%s: %s, want %d", path, resp.Status, status)
	}
	return resp
}

// finish reads an answer to its end, and compares it with a blob.
func finish(t *testing.T, resp *http.Response, blob digest.Digest) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil || digest.FromBytes(body) != blob {
		t.Errorf("%d bytes through nginx: %v", len(body), err)
	}
}

func TestBehindNginx(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	blob := addRandom(t, upstream, "org/app", mib, 1)
	w := harness.StartWeir(t, block("ghcr.io", upstream))
	p := startNginx(t, w)
	client := p.client(t, "127.0.0.1")
	p.open(t, client, "/v2/", http.StatusOK)
	for range 2 { // cold and warm
		finish(t, p.open(t, client, blobPath("ghcr.io/org/app", blob), http.StatusOK), blob)
	}
}

// The page's nginx tells the address and the scheme of a client, and a client cannot tell
// another one.
func TestNginxTellsTheClient(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	blob := addRandom(t, upstream, "org/app", mib, 1)
	w := harness.StartWeir(t, "[server]\ntrusted_proxies = [\"127.0.0.1\", \"::1\"]\n"+
		"[auth.token_service]\nsecret_key = \""+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\"\n"+
		blockOf("ghcr.io", []string{`allow = ["cidr:127.0.0.5/32"]`}, at(upstream)))
	p := startNginx(t, w)
	path := blobPath("ghcr.io/org/app", blob)
	finish(t, p.open(t, p.client(t, "127.0.0.5"), path, http.StatusOK), blob)
	for name, headers := range map[string][]string{
		"another address": nil, "it claims the address": {"X-Forwarded-For", "127.0.0.5"}, "and the scheme": {"X-Forwarded-For", "127.0.0.5, 127.0.0.1", "X-Forwarded-Proto", "http"},
		"in another header": {"Forwarded", "for=127.0.0.5", "X-Real-Ip", "127.0.0.5"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
		harness.Must(t, err)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := p.client(t, "127.0.0.6").Do(req)
		harness.Must(t, err)
		resp.Body.Close()
		if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(challenge, `realm="`+p.url+`/token"`) {
			t.Errorf("%s: %s, %s", name, resp.Status, challenge)
		}
	}
	w.Logs(t, `"client":"127.0.0.6","peer":"127.0.0.1"`)
}

// Behind an nginx that tells nothing of its clients, none of them is on the mirror's machine: each may
// read the API, and change nothing.
func TestNginxHidesNoClient(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("ghcr.io", upstream))
	bare := []string{
		"proxy_set_header Host $http_host;", "", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "",
		"proxy_set_header X-Forwarded-Proto $scheme;", "", "proxy_http_version 1.1;", "", "proxy_set_header Connection \"\";", "",
	}
	for name, replace := range map[string][]string{"the page's": nil, "bare": bare} {
		p := startNginx(t, w, replace...)
		client := p.client(t, "127.0.0.1")
		p.open(t, client, "/api/v1/status", http.StatusOK)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/refresh", strings.NewReader(`{"image": "ghcr.io/org/app:v1"}`))
		harness.Must(t, err)
		req.Host, req.Header = "localhost", http.Header{"Content-Type": {"application/json"}}
		resp, err := client.Do(req)
		harness.Must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s nginx: %s", name, resp.Status)
		}
	}
	if asked := upstream.Requests(); len(asked) != 0 {
		t.Errorf("refused changes asked the upstream: %q", asked)
	}
}

// A fleet behind one address starts at once, and the limits of the page cut off none of
// its transfers: 40 nodes pull 15 layers each.
func TestNginxServesAFleet(t *testing.T) {
	testutil.Long(t, "serves 600 transfers at once")
	t.Parallel()
	const nodes, layers = 40, 15
	upstream := upstreamtest.New(t)
	blob := addRandom(t, upstream, "org/app", mib, 1)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib/2, gate))
	w := harness.StartWeir(t, block("ghcr.io", upstream))
	p := startNginx(t, w)
	var begun, ended sync.WaitGroup
	begun.Add(nodes * layers)
	for range nodes {
		client := p.client(t, "127.0.0.1")
		for range layers {
			ended.Go(func() {
				resp, err := client.Get(p.url + blobPath("ghcr.io/org/app", blob))
				begun.Done()
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				finish(t, resp, blob)
			})
		}
	}
	begun.Wait() // all are under way at once
	gate.Open()
	ended.Wait()
	if got := w.Metric(t, "weir_upstream_requests_total"); got > 4 {
		t.Errorf("%v requests of the upstream", got)
	}
}

// A client beyond a limit is told to wait, and another address is served.
func TestNginxLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		replace []string
		fill    int
	}{
		"transfers at once": {[]string{"limit_conn transfers 1000;", "limit_conn transfers 3;"}, 3},
		"requests":          {[]string{"rate=500r/s;", "rate=1r/m;", "burst=10000 ", "burst=4 "}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			blob := addRandom(t, upstream, "org/app", mib, 1)
			gate := upstreamtest.NewGate()
			upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib/2, gate))
			p := startNginx(t, harness.StartWeir(t, block("ghcr.io", upstream)), c.replace...)
			client := p.client(t, "127.0.0.2")
			path := blobPath("ghcr.io/org/app", blob)
			var transfers []*http.Response
			for range c.fill {
				transfers = append(transfers, p.open(t, client, path, http.StatusOK))
			}
			p.open(t, client, path, http.StatusTooManyRequests)
			transfers = append(transfers, p.open(t, p.client(t, "127.0.0.3"), path, http.StatusOK))
			gate.Open()
			for _, resp := range transfers {
				finish(t, resp, blob)
			}
		})
	}
}
