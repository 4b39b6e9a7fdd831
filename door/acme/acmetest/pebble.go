package acmetest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// Pebble is an authority that is asked by ACME.
type Pebble struct {
	Directory string // URL
	CA        string // path of the authority that proves its server
	Roots     *x509.CertPool
	HTTPPort  string // that it connects to for http-01
	TLSPort   string // that it connects to for tls-alpn-01
	process   *harness.Process
}

// PebbleOptions are the properties of an authority.
type PebbleOptions struct {
	DNS      *DNS
	Validity time.Duration     // of certificates; 0: a day
	EAB      map[string]string // keys of accounts by ID; empty: none is asked for
	TLSPort  string            // "": a free one
}

// NewPebble returns an authority that is not started.
func NewPebble(t *testing.T, opts PebbleOptions) *Pebble {
	t.Helper()
	program := harness.Tool(t, "acme", "pebble")
	own := testutil.NewAuthority(t)
	certificate, key := own.Issue("pebble", time.Now().AddDate(1, 0, 0))
	addr := testutil.FreeAddr(t)
	p := &Pebble{Directory: "https://" + addr + "/dir", CA: own.File(), Roots: own.Pool(), HTTPPort: portOf(testutil.FreeAddr(t)), TLSPort: opts.TLSPort}
	if p.TLSPort == "" {
		p.TLSPort = portOf(testutil.FreeAddr(t))
	}
	if opts.Validity == 0 {
		opts.Validity = 24 * time.Hour
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": addr, "managementListenAddress": testutil.FreeAddr(t), "certificate": certificate, "privateKey": key,
		"httpPort": json.Number(p.HTTPPort), "tlsPort": json.Number(p.TLSPort), "retryAfter": map[string]int{"authz": 1, "order": 1},
		"externalAccountBindingRequired": len(opts.EAB) > 0, "externalAccountMACKeys": opts.EAB,
		"profiles": map[string]any{"default": map[string]any{"description": "", "validityPeriod": int(opts.Validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pebble.json")
	harness.WriteFile(t, path, string(config))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Roots}, DisableKeepAlives: true}}
	p.process = harness.NewProcess(t, "pebble", func() *exec.Cmd {
		cmd := exec.Command(program, "-config", path, "-dnsserver", opts.DNS.Addr)
		cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
		return cmd
	}, func(io.Reader) bool {
		return harness.Within(harness.Patience, func() bool { return harness.Answers(client, p.Directory) })
	})
	return p
}

// StartPebble runs an authority until the test ends.
func StartPebble(t *testing.T, opts PebbleOptions) *Pebble {
	t.Helper()
	p := NewPebble(t, opts)
	p.Start()
	return p
}

// Start runs the authority.
func (p *Pebble) Start() { p.process.Start() }

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // its addresses have one
	return port
}
