package registry_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// gate holds up and counts the uses of a store from some moment on.
type gate struct {
	armed   atomic.Bool
	uses    atomic.Int64
	entered chan struct{} // gets a value for each use, before that waits
	release chan struct{}
}

func (g *gate) pass() {
	if !g.armed.Load() {
		return
	}
	g.uses.Add(1)
	select {
	case g.entered <- struct{}{}:
	case <-g.release:
		return
	}
	<-g.release
}

type gatedStore struct {
	storage.Store
	*gate
}

func (s gatedStore) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	s.pass()
	return s.Store.Stat(ctx, dgst)
}

func (s gatedStore) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	s.pass()
	return s.Store.Open(ctx, dgst)
}

type gatedRecords struct {
	storage.Records
	*gate
}

func (r gatedRecords) Get(ctx context.Context, key string) ([]byte, error) {
	r.pass()
	return r.Records.Get(ctx, key)
}

func (r gatedRecords) Put(ctx context.Context, key string, document []byte) error {
	r.pass()
	return r.Records.Put(ctx, key, document)
}

// A request that is refused, for whatever reason, causes no request upstream and no use of the
// store, and waits for no lock of the pulls that are under way.
func TestRefusalsCostNothing(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("app", "v1", []byte("a layer"))
	g := &gate{entered: make(chan struct{}), release: make(chan struct{})}
	memory := storagetest.NewMemory(t)
	c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(c.Close)
	m := newMirrorOver(t, gatedStore{memory, g}, gatedRecords{memory.Records(), g}, memory.Spools(),
		block(t, r), block(t, r, named("own.example"), onBehalf(c)))
	blob := "/v2/up.example/app/blobs/" + digest.FromString("a layer").String()
	wantStatus(t, m.do("GET", "/v2/up.example/app/manifests/v1"), http.StatusOK)
	m.settle()

	g.armed.Store(true)
	var pulls sync.WaitGroup
	defer pulls.Wait()
	defer close(g.release)
	for _, path := range []string{blob, "/v2/up.example/app/tags/list", "/v2/up.example/app/manifests/other"} {
		pulls.Go(func() { m.do("GET", path) })
		<-g.entered // its only use until it is released
	}

	hook := func(status int) access.Webhook {
		service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(service.Close)
		address, _ := url.Parse(service.URL)
		return access.Webhook{Name: "opa", URL: address, Timeout: time.Minute}
	}
	opts, right, wrong := alice(t, false)
	opts.Tokens = access.TokenOptions{Key: []byte(strings.Repeat("k", 32)), TTL: time.Hour}
	expired := opts
	expired.Accounts = []access.Account{opts.Accounts[0]}
	expired.Accounts[0].Expires = time.Now().Add(-time.Hour)
	// Nothing listens at the port 0, so its keys cannot be read.
	away := access.NewIssuer(access.IssuerOptions{
		Name: "ci", URL: "http://127.0.0.1:0", Algorithms: []string{"RS256"}, Timeout: time.Minute, RotationTimeout: time.Minute,
		Client: http.DefaultClient, Logger: slog.New(slog.DiscardHandler),
	})
	encode := base64.RawURLEncoding.EncodeToString
	tokenOfIssuer := encode([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + encode([]byte(`{"iss":"http://127.0.0.1:0"}`)) + "." + encode([]byte("signature"))
	const forged = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ3ZWlyIn0.c2lnbmF0dXJl"
	never := &access.Policy{Rules: []string{`false`}}
	of := func(change func(*access.Block)) access.Options {
		locked := opts
		locked.Blocks = []access.Block{{Key: "up.example"}, {Key: "own.example"}}
		for i := range locked.Blocks {
			change(&locked.Blocks[i])
		}
		return locked
	}
	all := func(change func(*access.Options)) access.Options {
		locked := opts
		change(&locked)
		return locked
	}
	nothing := of(func(*access.Block) {})
	costsNothing := func(name string, ask func()) {
		t.Helper()
		r.ResetRequests()
		before := g.uses.Load()
		ask()
		if uses := g.uses.Load() - before; uses > 0 {
			t.Errorf("%s: %d uses of the store", name, uses)
		}
		if asked := r.Requests(); len(asked) > 0 {
			t.Errorf("%s: the upstream was asked %q", name, asked)
		}
	}
	for name, c := range map[string]struct {
		opts   access.Options
		header string
		status int // of all requests to repositories
	}{
		"no credentials":            {nothing, "", 401},
		"a wrong password":          {nothing, wrong, 401},
		"an unknown user":           {nothing, basic("mallory", "secret"), 401},
		"an expired account":        {expired, right, 401},
		"a header that is none":     {nothing, "Basic", 401},
		"an unknown scheme":         {nothing, "Digest a=b", 401},
		"a forged token":            {nothing, forged, 401},
		"a token of no issuer":      {nothing, "Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln", 401},
		"a hidden name":             {of(func(b *access.Block) { b.Images = []string{"!**"} }), right, 404},
		"a list without the user":   {of(func(b *access.Block) { b.Allow = subjects(t, "bob") }), right, 403},
		"a policy of all":           {all(func(o *access.Options) { o.Policy = never }), right, 403},
		"a policy of the block":     {of(func(b *access.Block) { b.Policy = never }), right, 403},
		"a rule that fails":         {of(func(b *access.Block) { b.Policy = &access.Policy{Rules: []string{`identity.oidc.claims['a'] == 'b'`}} }), right, 403},
		"a webhook":                 {all(func(o *access.Options) { o.Webhooks, o.Webhook = []access.Webhook{hook(403)}, "opa" }), right, 403},
		"an issuer that is away":    {all(func(o *access.Options) { o.Issuers = []*access.Issuer{away} }), "Bearer " + tokenOfIssuer, 503},
		"a webhook that is away":    {all(func(o *access.Options) { o.Webhooks, o.Webhook = []access.Webhook{hook(500)}, "opa" }), right, 403},
		"a block that is gone":      {all(func(o *access.Options) { o.Blocks = []access.Block{{Key: "another.example"}} }), right, 404},
		"a request that comes back": {nothing, right, 508},
	} {
		m.rules(c.opts)
		costsNothing(name, func() {
			for operation, line := range requestsOfAll() {
				method, path, _ := strings.Cut(line, " ")
				if operation == "ping" || operation == "catalog" {
					continue // they are for no repository, and may be permitted
				}
				headers := []string{"Authorization", c.header}
				if c.status == 508 {
					headers = append(headers, "Via", "1.1 weir-me")
				}
				for _, path := range []string{path, strings.Replace(path, "up.example", "own.example", 1)} {
					// There, all but a token of the mirror's is for the upstream to judge.
					if strings.Contains(path, "own.example") && c.status == 401 && c.header != forged {
						continue
					}
					if w := m.do(method, path, headers...); w.Code != c.status {
						t.Errorf("%s, %s %s: %d, want %d: %s", name, method, path, w.Code, c.status, w.Body)
					}
				}
			}
		})
	}
	costsNothing("a full queue of logins", func() {
		const tries = 50
		for i := 0; !m.refusesWhileLoginsWait(nothing); i++ {
			if i == tries {
				t.Error("no login was refused while the queue was full")
				return
			}
		}
	})
	// Where the upstream decides, a token of the mirror that is not for this place.
	m.rules(access.Options{Anonymous: true})
	before := g.uses.Load()
	for _, header := range []string{"Bearer eyJ.b.c.d.e", "Bearer", "Basic x", "Negotiate abc"} {
		wantStatus(t, m.do("GET", "/v2/own.example/app/manifests/v1", "Authorization", header), http.StatusUnauthorized)
	}
	if asked := r.Requests(); len(asked) > 0 || g.uses.Load() != before {
		t.Errorf("invalid tokens: the upstream was asked %q, the store was used %d times", asked, g.uses.Load()-before)
	}
}

// refusesWhileLoginsWait fills the queue of logins with guesses of one address, sends a request
// of each kind, and reports whether each was answered 503. It reports false if a guess ended
// before them, which made room.
func (m *mirror) refusesWhileLoginsWait(opts access.Options) bool {
	m.t.Helper()
	// A hash that takes many times as long as the requests.
	hash, err := access.ParseHash("$2y$10$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		m.t.Fatal(err)
	}
	opts.Accounts = []access.Account{{User: "alice", Hash: hash}}
	m.rules(opts)
	ctx, cancel := context.WithCancel(m.t.Context())
	var guesses sync.WaitGroup
	defer guesses.Wait()
	defer cancel()
	ask := func(method, path, password string) int {
		req := httptest.NewRequestWithContext(ctx, method, path, nil)
		req.SetBasicAuth("alice", password)
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, req)
		return w.Code
	}
	const ofNetwork = 32 // that wait
	refused := make(chan struct{}, 1)
	for i := range runtime.GOMAXPROCS(0) + ofNetwork + 1 {
		guesses.Go(func() {
			if ask("GET", "/v2/", fmt.Sprint("guess ", i)) == http.StatusServiceUnavailable {
				refused <- struct{}{}
				return
			}
			cancel() // ends a request that waits, since a place was free
		})
	}
	select {
	case <-refused: // the queue is full
	case <-ctx.Done():
		return false
	}
	for _, line := range requestsOfAll() {
		method, path, _ := strings.Cut(line, " ")
		for _, path := range []string{path, strings.Replace(path, "up.example", "own.example", 1)} {
			if ask(method, path, "another guess") != http.StatusServiceUnavailable {
				return false
			}
		}
	}
	return true
}
