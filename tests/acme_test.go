package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/door/acme/acmetest"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

const (
	acmeZone   = "example.test"
	acmeHost   = "mirror." + acmeZone
	tsigSecret = "c2VjcmV0IG9mIHRoZSB0ZXN0"
)

// acmeTable returns the table [server.tls.acme] for an authority.
func acmeTable(p *acmetest.Pebble, hosts, more string) string {
	return fmt.Sprintf("[server.tls.acme]\nhosts = %s\ndirectory_url = %q\nca_bundle = %q\n%s", hosts, p.Directory, p.CA, more)
}

// rfc2136Table proves hosts by updates of a DNS server.
func rfc2136Table(server *acmetest.DNS) string {
	return fmt.Sprintf("challenge = \"dns-01\"\n[server.tls.acme.dns]\nprovider = \"rfc2136\"\nserver = %q\nzone = %q\ntsig_name = \"key\"\ntsig_secret = %q\n",
		server.Addr, acmeZone, tsigSecret)
}

func quotedHost() string { return fmt.Sprintf("[%q]", acmeHost) }

// serves waits until a mirror has a certificate of an authority for a host.
func serves(t *testing.T, w *harness.Weir, host string) {
	t.Helper()
	harness.Eventually(t, "a certificate for "+host, func() bool {
		conn, err := dialAs(w.Addr, host)
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].VerifyHostname(host) == nil
	})
}

// Each challenge and each kind of access to a DNS server gets a certificate, which a
// restart has at once and the metric tells.
func TestACME(t *testing.T) {
	testutil.Long(t, "gets certificates from a real authority")
	t.Parallel()
	for name, c := range map[string]struct {
		eab   bool
		table func(t *testing.T, p *acmetest.Pebble, server *acmetest.DNS) string
	}{
		"tls-alpn-01": {false, func(*testing.T, *acmetest.Pebble, *acmetest.DNS) string { return "" }},
		"tls-alpn-01, clients with certificates alone": {false, func(t *testing.T, _ *acmetest.Pebble, _ *acmetest.DNS) string {
			return fmt.Sprintf("[server.tls]\nclient_auth = \"required\"\nclient_ca_bundle = %q\n", testutil.NewAuthority(t).File())
		}},
		"http-01": {false, func(_ *testing.T, p *acmetest.Pebble, _ *acmetest.DNS) string {
			return "challenge = \"http-01\"\nhttp_port = " + p.HTTPPort + "\n"
		}},
		"account of the authority": {true, func(*testing.T, *acmetest.Pebble, *acmetest.DNS) string {
			return "eab_key_id = \"kid-1\"\neab_hmac_key = \"zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\"\n"
		}},
		"rfc2136":  {false, func(_ *testing.T, _ *acmetest.Pebble, server *acmetest.DNS) string { return rfc2136Table(server) }},
		"acme-dns": {false, acmeDNSTable},
		"exec":     {false, hookTable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := acmetest.StartDNS(t, acmeZone, "key", tsigSecret)
			addr := testutil.FreeAddr(t)
			_, port, err := net.SplitHostPort(addr)
			harness.Must(t, err)
			opts := acmetest.PebbleOptions{DNS: server, TLSPort: port}
			if c.eab {
				opts.EAB = map[string]string{"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
			}
			pebble := acmetest.StartPebble(t, opts)
			table := acmeTable(pebble, quotedHost(), c.table(t, pebble, server))
			if i := strings.Index(table, "[server.tls]\n"); i >= 0 {
				table = table[i:] + table[:i] // its keys come before those of the tables in it
			}
			config := "[server]\nport = " + port + "\n" + table
			dir := t.TempDir()
			w := harness.StartWeirIn(t, dir, config)
			healthy(t, w) // without a certificate, too
			serves(t, w, acmeHost)
			w.Logs(t, "TLS handshakes are refused until the authority has issued it")
			w.Logs(t, "the authority has issued a certificate")
			if server.Added() > 0 && name != "acme-dns" { // whose server keeps the last values
				harness.Eventually(t, "the record is removed", func() bool { return len(server.TXT("_acme-challenge."+acmeHost)) == 0 })
			} else if name == "rfc2136" || name == "exec" {
				t.Error("no record was added")
			}
			keys := 0
			harness.Must(t, filepath.WalkDir(filepath.Join(w.Data, "records", "_acme"), func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				info, err := entry.Info()
				if strings.HasSuffix(path, ".key") {
					keys++
				}
				if err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", path, info.Mode())
				}
				return err
			}))
			if keys == 0 {
				t.Error("no key is stored")
			}
			if name != "tls-alpn-01" {
				return
			}
			first := leafOf(t, w.Addr)
			w.Client = trusting(t, poolOf(first))
			w.Client.Transport.(*http.Transport).TLSClientConfig.ServerName = acmeHost
			if got := w.Metric(t, "weir_tls_certificate_expiry_timestamp_seconds", "host", acmeHost); int64(got) != first.NotAfter.Unix() {
				t.Errorf("the metric is %f", got)
			}
			w.Terminate(t)
			w = harness.StartWeirIn(t, dir, config)
			if !leafOf(t, w.Addr).Equal(first) {
				t.Error("a restart asked for another certificate")
			}
		})
	}
}

// acmeDNSTable runs a server that sets the TXT record of its account, to which that of
// the host is a CNAME.
func acmeDNSTable(t *testing.T, _ *acmetest.Pebble, server *acmetest.DNS) string {
	const subdomain = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a"
	target := subdomain + ".auth.test"
	server.Alias("_acme-challenge."+acmeHost, target)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var update struct{ Subdomain, TXT string }
		if r.URL.Path != "/update" || r.Header.Get("X-Api-User") != "user" || r.Header.Get("X-Api-Key") != "password" ||
			json.NewDecoder(r.Body).Decode(&update) != nil || update.Subdomain != subdomain {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		server.Add(target, update.TXT)
	}))
	t.Cleanup(api.Close)
	return fmt.Sprintf("challenge = \"dns-01\"\n[server.tls.acme.dns]\nprovider = \"acme-dns\"\nurl = %q\nusername = \"user\"\npassword = \"password\"\nsubdomain = %q\n", api.URL, subdomain)
}

// hookTable writes a shell script that changes records.
func hookTable(t *testing.T, _ *acmetest.Pebble, server *acmetest.DNS) string {
	changes := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		name, value, _ := strings.Cut(string(body), " ")
		switch r.URL.Path {
		case "/present":
			server.Add(name, value)
		case "/cleanup":
			server.Remove(name, value)
		}
	}))
	t.Cleanup(changes.Close)
	testutil.Program(t, "curl", "curl")
	script := filepath.Join(t.TempDir(), "hook")
	harness.WriteFile(t, script, "curl -sf --noproxy '*' --data-binary \"$3 $4\" \"$1/$2\"\n")
	return fmt.Sprintf("challenge = \"dns-01\"\n[server.tls.acme.dns]\nprovider = \"exec\"\ncommand = [\"sh\", %q, %q]\n", script, changes.URL)
}

// An authority that is down is logged and asked again. Hosts change while it runs.
func TestACMEAuthorityIsDown(t *testing.T) {
	t.Parallel()
	testutil.Long(t, "waits a minute for the second attempt, or two more for the third")
	server := acmetest.StartDNS(t, acmeZone, "key", tsigSecret)
	pebble := acmetest.NewPebble(t, acmetest.PebbleOptions{DNS: server})
	w := harness.StartWeir(t, acmeTable(pebble, quotedHost(), rfc2136Table(server)))
	w.Logs(t, "cannot get a certificate, so TLS handshakes are refused", "connection refused", "the TXT record can be added and is visible")
	if conn, err := dialAs(w.Addr, acmeHost); err == nil {
		conn.Close()
		t.Error("there is a certificate")
	}
	healthy(t, w)
	pebble.Start()
	if !harness.Within(6*time.Minute, func() bool { return w.Log.Count("the authority has issued a certificate") > 0 }) {
		t.Fatal("the authority was not asked again")
	}
	serves(t, w, acmeHost)

	other := "other." + acmeZone
	harness.WriteFile(t, w.Config, acmeTable(pebble, fmt.Sprintf("[%q, \"*.sub.%s\"]", strings.ToUpper(other), acmeZone), rfc2136Table(server)))
	serves(t, w, other)
	serves(t, w, "a.sub."+acmeZone)
	if strings.Contains(w.Log.String(), tsigSecret) {
		t.Error("the log has the key of the DNS server")
	}
}

// A reload asks for another challenge, whose port another program has. The mirror goes on, says
// so, and listens as soon as the port is free.
func TestACMEPortIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	harness.Must(t, err)
	table := fmt.Sprintf("[server.tls.acme]\nhosts = %s\ndirectory_url = \"https://%s/none\"\n", quotedHost(), testutil.FreeAddr(t))
	w := harness.StartWeir(t, table)
	harness.WriteFile(t, w.Config, table+"challenge = \"http-01\"\nhttp_port = "+port+"\n")
	w.Logs(t, "certificates cannot be requested yet (server.tls.acme)", "Free the port, or use another challenge")
	healthy(t, w)
	harness.Must(t, taken.Close())
	w.Logs(t, "listening for the challenge of the authority", "127.0.0.1:"+port)
}

// Two mirrors on one store ask the authority once, and serve the same certificate.
func TestACMEIsAskedOnceForAStore(t *testing.T) {
	t.Parallel()
	server := acmetest.StartDNS(t, acmeZone, "key", tsigSecret)
	pebble := acmetest.StartPebble(t, acmetest.PebbleOptions{DNS: server})
	data := t.TempDir()
	config := acmeTable(pebble, quotedHost(), rfc2136Table(server)) + fmt.Sprintf("[blob_store.fs]\nroot_dir = %q\n", data)
	var mirrors []*harness.Weir
	for range 2 {
		mirrors = append(mirrors, harness.StartWeir(t, config))
	}
	for _, w := range mirrors {
		serves(t, w, acmeHost)
	}
	if !leafOf(t, mirrors[0].Addr).Equal(leafOf(t, mirrors[1].Addr)) || server.Added() != 1 {
		t.Errorf("%d orders", server.Added())
	}
}
