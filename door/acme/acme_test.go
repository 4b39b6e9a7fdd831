package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/weirhq/weir/door/acme/acmetest"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
)

const (
	zone   = "example.test"
	host   = "mirror." + zone
	secret = "c2VjcmV0IG9mIHRoZSB0ZXN0"
)

// A certificate is renewed before it ends, without a handshake that fails. Of two processes
// on one store one asks, and both serve its certificate. So do two machines that share records.
func TestRenewal(t *testing.T) {
	t.Run("one store", func(t *testing.T) {
		store := storagetest.NewMemory(t).Records()
		testRenewal(t, store, store)
	})
	t.Run("shared records", func(t *testing.T) {
		far := storagetest.NewMemory(t).Records()
		testRenewal(t, newReplica(t, far, replicaSecret), newReplica(t, far, replicaSecret))
	})
}

func testRenewal(t *testing.T, stores ...storage.Records) {
	server := acmetest.StartDNS(t, zone, "key", secret)
	pebble := acmetest.StartPebble(t, acmetest.PebbleOptions{DNS: server, Validity: 15 * time.Second})
	var log testutil.LogBuffer
	orders, locks := &orders{t: t}, t.TempDir()
	var both []*Manager
	for _, store := range stores {
		m := manage(t, server, pebble, issued{store, orders}, locks, &log)
		if served := m.Served(); len(served) != 1 || served[0].Host != host || !served[0].Ends.IsZero() {
			t.Errorf("before the first one: %+v", served)
		}
		if _, err := handshake(m, host); !errors.Is(err, ErrNone) {
			t.Errorf("before the first one: %v", err)
		}
		both = append(both, m)
	}
	for _, m := range both {
		if err := m.Start(&net.TCPAddr{}); err != nil {
			t.Fatal(err)
		}
	}
	var first time.Time
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not renewed:\n%s", log.String())
		}
		renewed := 0
		for _, m := range both {
			served := m.Served()[0].Ends
			if served.IsZero() {
				continue
			}
			if first.IsZero() {
				first = served
			}
			if ends, err := handshake(m, "other.name"); err != nil || time.Now().After(ends) {
				t.Fatalf("a handshake in between: %v", err)
			}
			if served.After(first) {
				renewed++
			}
		}
		if renewed == len(both) {
			break
		}
	}
	if text := log.String(); !strings.Contains(text, "TLS handshakes are refused until") || !strings.Contains(text, "renewal=true") {
		t.Errorf("the log is\n%s", text)
	}
}

// manage returns a manager that proves hosts by a DNS server.
func manage(t *testing.T, server *acmetest.DNS, pebble *acmetest.Pebble, store storage.Records, locks string, log io.Writer) *Manager {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, nil))
	m := New(Options{
		Hosts: []string{host}, Directory: pebble.Directory, Roots: pebble.Roots, Challenge: DNS,
		DNS:   RFC2136{Server: server.Addr, Zone: zone, KeyName: "key", Algorithm: "hmac-sha256", Secret: secret, Logger: logger},
		Store: store, Locks: NewFileLocks(locks), Logger: logger, RenewCheck: time.Second,
	})
	// Pebble's hint about the time of a renewal is the whole life of such a short certificate,
	// of which certmagic chooses any moment. Without it, a certificate is due after two thirds.
	m.config.DisableARI = true
	t.Cleanup(m.Close)
	return m
}

// issued are records that see a certificate being replaced before its time: then two
// processes have asked for the same one.
type issued struct {
	storage.Records
	*orders
}

// orders are those of all processes.
type orders struct {
	t    *testing.T
	mu   sync.Mutex
	last *x509.Certificate
}

func (i issued) Put(ctx context.Context, key string, text []byte) error {
	if strings.HasSuffix(key, ".crt") {
		var d document
		if err := json.Unmarshal(text, &d); err != nil {
			i.t.Error(err)
		}
		block, _ := pem.Decode(d.Value)
		next := must(x509.ParseCertificate(block.Bytes))
		i.mu.Lock()
		// It is due after two thirds of its life.
		if last := i.last; last != nil && next.NotBefore.Before(last.NotBefore.Add(last.NotAfter.Sub(last.NotBefore)/2)) {
			i.t.Errorf("issued twice: %s and %s", last.NotBefore, next.NotBefore)
		}
		i.last = next
		i.mu.Unlock()
	}
	return i.Records.Put(ctx, key, text)
}

// If the authority is away when a certificate is due, the old one is served on, the log
// says so, and the authority is asked again.
func TestRenewalWhileTheAuthorityIsDown(t *testing.T) {
	testutil.Long(t, "waits a minute for the second attempt")
	server := acmetest.StartDNS(t, zone, "key", secret)
	pebble := acmetest.StartPebble(t, acmetest.PebbleOptions{DNS: server, Validity: 15 * time.Second})
	var log testutil.LogBuffer
	way := newWay(t, strings.TrimSuffix(strings.TrimPrefix(pebble.Directory, "https://"), "/dir"))
	pebble.Directory = "https://" + way.Addr().String() + "/dir"
	m := manage(t, server, pebble, storagetest.NewMemory(t).Records(), t.TempDir(), &log)
	if err := m.Start(&net.TCPAddr{}); err != nil {
		t.Fatal(err)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s:\n%s", what, log.String())
			}
		}
	}
	until("no certificate", func() bool { return !m.Served()[0].Ends.IsZero() })
	way.blocked.Store(true)
	until("no failure", func() bool {
		return log.Count("cannot renew a certificate", "serves the old one until it expires") > 0
	})
	last := m.Served()[0].Ends
	if ends, err := handshake(m, host); err != nil || !ends.Equal(last) {
		t.Errorf("while the authority is away: %s, %v", ends, err)
	}
	way.blocked.Store(false)
	until("not renewed", func() bool { return m.Served()[0].Ends.After(last) })
}

// way is the network before a server, which can be blocked.
type way struct {
	net.Listener
	blocked atomic.Bool
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	w := &way{Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	t.Cleanup(func() { w.Close() })
	go func() {
		for {
			near, err := w.Accept()
			if err != nil {
				return
			}
			go w.carry(near, to)
		}
	}()
	return w
}

func (w *way) carry(near net.Conn, to string) {
	defer near.Close()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(near, far)
		near.Close()
	}()
	buffer := make([]byte, 4<<10)
	for {
		n, err := near.Read(buffer)
		if err != nil || w.blocked.Load() {
			return
		}
		if _, err := far.Write(buffer[:n]); err != nil {
			return
		}
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

// secondary is a server of a zone that has a new record after some questions.
type secondary struct {
	after int
	asked atomic.Int64
}

func (s *secondary) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	if s.asked.Add(1) > int64(s.after) {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"value"}})
	}
	_ = w.WriteMsg(m)
}

// The servers of the zone are waited for, but not for ever: the authority decides.
func TestRFC2136WaitsForTheServers(t *testing.T) {
	const never = 1 << 30
	for name, c := range map[string]struct {
		after  []int // questions after which a secondary has the record
		silent bool  // one more secondary does not answer
		logs   string
	}{
		"no server is known":   {nil, false, ""},
		"all have it":          {[]int{0, 0}, false, ""},
		"one is late":          {[]int{0, 3}, false, ""},
		"all are late":         {[]int{2, 1, 4}, false, ""},
		"one never gets it":    {[]int{0, never}, false, "ns2.example.test."},
		"one does not answer":  {[]int{1}, true, "ns9.example.test."},
		"none of them answers": {nil, true, "ns9.example.test."},
	} {
		t.Run(name, func(t *testing.T) {
			var log testutil.LogBuffer
			primary := acmetest.StartDNS(t, zone, "", "")
			at := make(map[string]string)
			var all []*secondary
			for i, after := range c.after {
				udp, err := net.ListenPacket("udp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				s := &secondary{after: after}
				started := make(chan struct{})
				server := &dns.Server{PacketConn: udp, Handler: s, NotifyStartedFunc: func() { close(started) }}
				go func() { _ = server.ActivateAndServe() }()
				<-started
				t.Cleanup(func() { _ = server.Shutdown() })
				all, at[fmt.Sprintf("ns%d.example.test.", i+1)] = append(all, s), udp.LocalAddr().String()
			}
			if c.silent {
				at["ns9.example.test."] = testutil.FreeAddr(t)
			}
			for server := range at {
				primary.Serves(server)
			}
			r := RFC2136{
				Server: primary.Addr, Zone: zone, Logger: slog.New(slog.NewTextHandler(&log, nil)), pause: time.Millisecond, timeout: time.Minute,
				addresses: func(_ context.Context, name string) []string { return []string{testutil.FreeAddr(t), at[name]} },
			}
			if c.logs != "" {
				r.timeout = 200 * time.Millisecond
			}
			if err := r.Present(t.Context(), "_acme-challenge."+host, "value"); err != nil {
				t.Error(err)
			}
			for i, s := range all {
				if asked := s.asked.Load(); c.after[i] < never && asked != int64(c.after[i])+1 && c.logs == "" {
					t.Errorf("server %d was asked %d times", i+1, asked)
				}
			}
			if text := log.String(); (c.logs == "") != (text == "") || !strings.Contains(text, c.logs) {
				t.Errorf("the log is %s", text)
			}
		})
	}
	r := RFC2136{Server: acmetest.StartDNS(t, zone, "", "").Addr}
	if got := r.addressesOf(t.Context(), "ns1.example.test."); !slices.Equal(got, []string{"127.0.0.1:53"}) {
		t.Errorf("the addresses of a server are %q", got)
	}
}

// Strangers cannot have names looked up in the store that are not configured.
func TestProofsOfOtherNames(t *testing.T) {
	counting := &counting{Records: storagetest.NewMemory(t).Records()}
	m := New(Options{
		Hosts: []string{host, "127.0.0.1"}, Directory: "https://ca.test/dir", Challenge: HTTP, Store: counting, Locks: NewFileLocks(t.TempDir()), Logger: slog.New(slog.DiscardHandler),
	})
	defer m.Close()
	for name, want := range map[string]int64{ // records that are read
		host: 1, strings.ToUpper(host): 1, "127.0.0.1": 1, "other.test": 0, "": 0, "../../x": 0, host + ".": 0, "*." + zone: 0, strings.Repeat("a.", 120) + "test": 0,
	} {
		counting.read.Store(0)
		r := httptest.NewRequest(http.MethodGet, "/.well-known/acme-challenge/token", nil)
		r.Host = name + ":80"
		w := httptest.NewRecorder()
		m.proofs().ServeHTTP(w, r)
		if got := counting.read.Load(); w.Code != http.StatusNotFound || got != want {
			t.Errorf("http-01 for %q: %d, %d records read", name, w.Code, got)
		}
		if name == "127.0.0.1" {
			name = "1.0.0.127.in-addr.arpa"
		}
		counting.read.Store(0)
		near, far := net.Pipe()
		_, err := m.Certificate(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{"acme-tls/1"}, Conn: near})
		near.Close()
		far.Close()
		if got := counting.read.Load(); !errors.Is(err, ErrNone) || got != want {
			t.Errorf("tls-alpn-01 for %q: %v, %d records read", name, err, got)
		}
	}
}

// counting are records that count the reads.
type counting struct {
	storage.Records
	read atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string) ([]byte, error) {
	c.read.Add(1)
	return c.Records.Get(ctx, key)
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
	// The account goes to no other host, and shows in no error.
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host got %v", r.Header)
	}))
	defer other.Close()
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusForbidden} {
		odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, "your header was ", r.Header)
		}))
		a.URL, a.Password = must(url.Parse(odd.URL)), "s3cret-of-the-account"
		if err := a.Present(t.Context(), "name", "value"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || strings.Contains(err.Error(), a.Password) {
			t.Errorf("%d: %v", status, err)
		}
		odd.Close()
	}
	a.URL, a.Password = u, "password"
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
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errDNSTimeout)
		err := Hook{c.command}.Present(ctx, "_acme-challenge.x", "a b;$(id)")
		cancel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || err != nil && len(err.Error()) > 2*maxReply {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

// A hook removes its own record, also after the attempt was given up.
func TestHookCleansUp(t *testing.T) {
	noted := filepath.Join(t.TempDir(), "noted")
	h := Hook{[]string{"/bin/sh", "-c", `echo "$@" >> "$0"; test "$1" = present || test "$3" != bad || { echo "no such record" >&2; exit 1; }`, noted}}
	s := &solver{h}
	challenge := acme.Challenge{Type: "dns-01", Token: "t", KeyAuthorization: "t.key", Identifier: acme.Identifier{Type: "dns", Value: host}}
	if err := s.Present(t.Context(), challenge); err != nil {
		t.Fatal(err)
	}
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := s.CleanUp(given, challenge); err != nil {
		t.Error(err)
	}
	name, value := challenge.DNS01TXTRecordName(), challenge.DNS01KeyAuthorization()
	if got, want := string(must(os.ReadFile(noted))), fmt.Sprintf("present %[1]s %[2]s\ncleanup %[1]s %[2]s\n", name, value); got != want {
		t.Errorf("the hook was run as %q, want %q", got, want)
	}
	if err := h.CleanUp(t.Context(), name, "bad"); err == nil || !strings.Contains(err.Error(), "no such record") {
		t.Errorf("a failure: %v", err)
	}
}

// A hook that is ended takes the programs along that it has started.
func TestHookEndsAsAWhole(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Hook{[]string{"/bin/sh", "-c", `sleep 600 & echo $! > "$0.new"; mv "$0.new" "$0"; wait`, pid}}.Present(ctx, "name", "value")
	}()
	var child int
	for child == 0 {
		text, _ := os.ReadFile(pid)
		_, _ = fmt.Sscan(string(text), &child)
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	for end := time.Now().Add(20 * time.Second); !gone(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the program that it has started still runs")
		}
	}
}

// gone reports whether a process has ended, although its parent may not have noticed.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// The records of a store behave as certmagic expects of its storage.
func TestStorage(t *testing.T) {
	ctx := t.Context()
	memory := storagetest.NewMemory(t).Records()
	r := records{records: memory}
	for _, key := range []string{"certificates/ca/a.test/a.test.crt", "certificates/ca/a.test/a.test.json", "certificates/ca/wildcard_.b.test/wildcard_.b.test.crt", "acme/ca/users/default/default.key"} {
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
			[]string{"certificates/ca/a.test/a.test.crt", "certificates/ca/a.test/a.test.json", "certificates/ca/wildcard_.b.test/wildcard_.b.test.crt"},
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
	if err := errors.Join(r.Delete(ctx, "certificates/ca/a.test"), r.Delete(ctx, "none")); err != nil || r.Exists(ctx, "certificates/ca/a.test/a.test.json") || !r.Exists(ctx, "certificates/ca") {
		t.Errorf("after removal: %v", err)
	}
	// A damaged record is requested again.
	if err := memory.Put(ctx, prefix+"/damaged", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(ctx, "damaged"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaged: %v", err)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
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

// unlocked are locks that hold up no manager, and leave no files: the requests for certificates
// of one without an authority end some time after it.
type unlocked struct{}

func (unlocked) Lock(ctx context.Context, _ string) error { return ctx.Err() }
func (unlocked) Unlock(context.Context, string) error     { return nil }

// The port of the challenge HTTP is taken when a manager should start. It starts as soon as
// the port is free, and not after its end.
func TestPortIsTaken(t *testing.T) {
	taken := must(net.Listen("tcp", "127.0.0.1:0"))
	address := taken.Addr().String()
	var log testutil.LogBuffer
	start := func() *Manager {
		m := New(Options{
			Hosts: []string{host}, Directory: "http://127.0.0.1:0", Challenge: HTTP, HTTPAddress: address,
			Store: storagetest.NewMemory(t).Records(), Locks: unlocked{}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err := m.Start(&net.TCPAddr{}); err == nil {
			t.Error("it listens at a port that is taken")
		}
		m.StartLater(&net.TCPAddr{})
		return m
	}
	start().Close() // and so never listens
	m := start()
	defer m.Close()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	const line = "listening for the challenge of the authority"
	for end := time.Now().Add(time.Minute); log.Count(line) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not listen:\n%s", log.String())
		}
	}
	resp, err := http.Get("http://" + address + "/.well-known/acme-challenge/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || log.Count(line) != 1 {
		t.Errorf("%d, the log is\n%s", resp.StatusCode, log.String())
	}
}
