package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/door/acme/acmetest"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/storagetest"
)

const (
	zone   = "example.test"
	host   = "mirror." + zone
	secret = "c2VjcmV0IG9mIHRoZSB0ZXN0"
)

// A certificate is renewed before it ends, without a handshake that fails.
func TestRenewal(t *testing.T) {
	server := acmetest.StartDNS(t, zone, "key", secret)
	pebble := acmetest.StartPebble(t, acmetest.PebbleOptions{DNS: server, Validity: 15 * time.Second})
	var log testutil.LogBuffer
	m := New(Options{
		Hosts: []string{host}, Directory: pebble.Directory, Roots: pebble.Roots, Challenge: DNS,
		DNS:   RFC2136{Server: server.Addr, Zone: zone, KeyName: "key", Algorithm: "hmac-sha256", Secret: secret},
		Store: storagetest.NewMemory(t).Records(), Locks: NewFileLocks(t.TempDir()), Logger: slog.New(slog.NewTextHandler(&log, nil)), RenewCheck: time.Second,
	})
	defer m.Close()
	if served := m.Served(); len(served) != 1 || served[0].Host != host || !served[0].Ends.IsZero() {
		t.Errorf("before the first one: %+v", served)
	}
	if _, err := handshake(m, host); !errors.Is(err, ErrNone) {
		t.Errorf("before the first one: %v", err)
	}
	if err := m.Start(&net.TCPAddr{}); err != nil {
		t.Fatal(err)
	}
	var first time.Time
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not renewed:\n%s", log.String())
		}
		served := m.Served()[0]
		if first.IsZero() {
			first = served.Ends
			continue
		}
		if ends, err := handshake(m, "other.name"); err != nil || time.Now().After(ends) {
			t.Fatalf("a handshake in between: %v", err)
		}
		if served.Ends.After(first) {
			break
		}
	}
	if text := log.String(); !strings.Contains(text, "TLS handshakes are refused until") || !strings.Contains(text, "renewal=true") {
		t.Errorf("the log is\n%s", text)
	}
	if left := server.TXT("_acme-challenge." + host); len(left) > 0 {
		t.Errorf("records left: %q", left)
	}
}

// handshake returns the end of the certificate that a client gets for a name, or the
// error of the server.
func handshake(m *Manager, name string) (ends time.Time, err error) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	failed := make(chan error, 1)
	go func() {
		failed <- tls.Server(far, &tls.Config{GetCertificate: m.Certificate, MinVersion: tls.VersionTLS12}).Handshake()
		far.Close()
	}()
	client := tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if client.Handshake() == nil {
		ends = client.ConnectionState().PeerCertificates[0].NotAfter
		return ends, nil
	}
	return ends, <-failed
}

// Updates are signed. A server that refuses them is named with its reason.
func TestRFC2136(t *testing.T) {
	server := acmetest.StartDNS(t, zone, "key", secret)
	open := acmetest.StartDNS(t, zone, "", "")
	good := RFC2136{Server: server.Addr, Zone: zone, KeyName: "key", Algorithm: "hmac-sha256", Secret: secret}
	for name, c := range map[string]struct {
		change func(*RFC2136)
		want   string // of the error; "": none
	}{
		"good":                {func(*RFC2136) {}, ""},
		"dots and capitals":   {func(r *RFC2136) { r.Zone, r.KeyName, r.Algorithm = "Example.test.", "KEY.", "hmac-sha256." }, ""},
		"unsigned":            {func(r *RFC2136) { r.Server, r.KeyName = open.Addr, "" }, ""},
		"unsigned to signed":  {func(r *RFC2136) { r.KeyName = "" }, "refuses the update of zone example.test: NOTAUTH"},
		"another secret":      {func(r *RFC2136) { r.Secret = "b3RoZXI=" }, server.Addr},
		"another key":         {func(r *RFC2136) { r.KeyName = "other" }, server.Addr},
		"another zone":        {func(r *RFC2136) { r.Zone = "other.test" }, "refuses the update of zone other.test: NOTZONE"},
		"nothing listens":     {func(r *RFC2136) { r.Server = testutil.FreeAddr(t) }, "connection refused"},
		"another algorithm":   {func(r *RFC2136) { r.Algorithm = "hmac-sha512" }, ""},
		"a secret of nothing": {func(r *RFC2136) { r.Secret = "" }, server.Addr},
	} {
		r := good
		c.change(&r)
		err := r.Present(t.Context(), "_acme-challenge."+host, name)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error has the secret", name)
			}
			continue
		}
		values := append(server.TXT("_acme-challenge."+host), open.TXT("_acme-challenge."+host)...)
		if !slices.Contains(values, name) {
			t.Errorf("%s: the records are %q", name, values)
		}
		if err := r.CleanUp(t.Context(), "_acme-challenge."+host, name); err != nil || len(server.TXT("_acme-challenge."+host)) > 0 {
			t.Errorf("%s: %v, left %q", name, err, server.TXT("_acme-challenge."+host))
		}
	}
}

// An acme-dns server gets the value with the account, and its refusal is told.
func TestACMEDNS(t *testing.T) {
	var got string
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprint(r.Method, r.URL.Path, r.Header.Get("X-Api-User"), r.Header.Get("X-Api-Key"), string(body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat(`{"error": "bad_txt"}`+"\n", 1000))
	}))
	defer server.Close()
	u, err := url.Parse(server.URL + "/api/")
	if err != nil {
		t.Fatal(err)
	}
	a := ACMEDNS{URL: u, Username: "user", Password: "password", Subdomain: "sub", Client: server.Client()}
	const want = `POST/api/updateuserpassword{"subdomain":"sub","txt":"value"}`
	if err := a.Present(t.Context(), "name", "value"); err != nil || got != want {
		t.Errorf("%v, sent %s, want %s", err, got, want)
	}
	status = http.StatusUnauthorized
	if err := a.Present(t.Context(), "name", "value"); err == nil || !strings.Contains(err.Error(), "401") || !strings.Contains(err.Error(), "bad_txt") || len(err.Error()) > 2*maxReply || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	server.Close()
	if err := a.Present(t.Context(), "name", "value"); err == nil || strings.Contains(err.Error(), "password") {
		t.Errorf("%v", err)
	}
}

// A hook gets its arguments as they are, has a time limit, and says why it fails.
func TestHook(t *testing.T) {
	dir := t.TempDir()
	script := func(text string) []string {
		path := filepath.Join(dir, fmt.Sprint(len(text)))
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return []string{path}
	}
	for name, c := range map[string]struct {
		command []string
		want    string // of the error; "": none
	}{
		"good":               {script(`test "$1 $2 $3" = "present _acme-challenge.x $(printf 'a b;$(id)')"`), ""},
		"with own arguments": {append(script(`test "$1 $2" = "--zone present" || exit 3`), "--zone"), ""},
		"fails":              {script(`echo "no such zone" >&2; exit 4`), "exit status 4: no such zone"},
		"fails at length":    {script(`yes x | head -c 100000 >&2; exit 5`), "exit status 5"},
		"prints and works":   {script(`echo fine; echo careful >&2`), ""},
		"hangs":              {script(`sleep 60`), "it did not end within"},
		"its child hangs":    {script(`sleep 60 & exit 0`), "WaitDelay expired"},
		"is not there":       {[]string{dir + "/none"}, "no such file"},
	} {
		begin := time.Now()
		err := Hook{Command: c.command, Timeout: 2 * time.Second}.Present(t.Context(), "_acme-challenge.x", "a b;$(id)")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || err != nil && len(err.Error()) > 2*maxReply {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

// The records of a store behave as certmagic expects of its storage.
func TestStorage(t *testing.T) {
	ctx := t.Context()
	memory := storagetest.NewMemory(t).Records()
	r := records{records: memory}
	for _, key := range []string{"certificates/ca/a.test/a.test.crt", "certificates/ca/a.test/a.test.key", "certificates/ca/wildcard_.b.test/wildcard_.b.test.crt", "acme/ca/users/default/default.key"} {
		if err := r.Store(ctx, key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if value, err := r.Load(ctx, "certificates/ca/a.test/a.test.crt"); err != nil || string(value) != "certificates/ca/a.test/a.test.crt" {
		t.Errorf("%q, %v", value, err)
	}
	for key, want := range map[string]bool{"certificates/ca/a.test/a.test.crt": true, "certificates/ca": true, "certificates/c": false, "other": false} {
		if r.Exists(ctx, key) != want {
			t.Errorf("%s exists: %v", key, !want)
		}
	}
	for at, want := range map[string]struct{ names, all []string }{
		"certificates/ca": {
			[]string{"certificates/ca/a.test", "certificates/ca/wildcard_.b.test"},
			[]string{"certificates/ca/a.test/a.test.crt", "certificates/ca/a.test/a.test.key", "certificates/ca/wildcard_.b.test/wildcard_.b.test.crt"},
		},
		"acme": {[]string{"acme/ca"}, []string{"acme/ca/users/default/default.key"}},
	} {
		names, err := r.List(ctx, at, false)
		all, err2 := r.List(ctx, at, true)
		if err != nil || err2 != nil || !slices.Equal(names, want.names) || !slices.Equal(all, want.all) {
			t.Errorf("%s: %q, %q, %v, %v", at, names, all, err, err2)
		}
	}
	info, err := r.Stat(ctx, "certificates/ca/a.test/a.test.crt")
	if err != nil || !info.IsTerminal || info.Size != 33 || time.Since(info.Modified) > time.Minute {
		t.Errorf("%+v, %v", info, err)
	}
	if info, err := r.Stat(ctx, "certificates/ca/a.test"); err != nil || info.IsTerminal {
		t.Errorf("%+v, %v", info, err)
	}
	for name, err := range map[string]error{
		"load": second(r.Load(ctx, "none")), "stat": second(r.Stat(ctx, "none")), "list": second(r.List(ctx, "none", true)), "load a directory": second(r.Load(ctx, "certificates/ca")),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(r.Delete(ctx, "certificates/ca/a.test"), r.Delete(ctx, "none")); err != nil || r.Exists(ctx, "certificates/ca/a.test/a.test.key") || !r.Exists(ctx, "certificates/ca") {
		t.Errorf("after removal: %v", err)
	}
	// A damaged record is asked for anew.
	if err := memory.Put(ctx, prefix+"/damaged", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(ctx, "damaged"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaged: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Two processes never hold one lock, and none waits beyond its context.
func TestFileLocks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locks")
	a, b := NewFileLocks(dir), NewFileLocks(dir)
	if err := a.Lock(t.Context(), "*.example.test/x"); err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	for name, second := range map[string]*FileLocks{"another process": b, "the same": a} {
		brief, cancel := context.WithTimeout(t.Context(), 3*lockPause)
		if err := second.Lock(brief, "*.example.test/x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if err := a.Unlock(t.Context(), "*.example.test/x"); err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(t.Context(), "*.example.test/x"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(b.Unlock(t.Context(), "*.example.test/x"), b.Unlock(t.Context(), "other"), b.Unlock(t.Context(), "never held")); err != nil {
		t.Error(err)
	}
}
