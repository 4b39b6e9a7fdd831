package access

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// service is a webhook's other side.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	last   http.Header
	asked  atomic.Int32
}

func newService(t *testing.T, status int) *service {
	s := &service{status: status}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = r.Header.Clone()
		if s.status == http.StatusFound {
			w.Header().Set("Location", "/allowed")
		}
		if r.URL.Path == "/allowed" {
			return
		}
		w.WriteHeader(s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *service) webhook(t *testing.T, change func(*Webhook)) *webhook {
	t.Helper()
	address, err := url.Parse(s.URL + "/authorize?tenant=a")
	if err != nil {
		t.Fatal(err)
	}
	w := Webhook{Name: "opa", URL: address, Timeout: 10 * time.Second, CacheTTL: time.Minute}
	if change != nil {
		change(&w)
	}
	asker := newWebhook(w, taggerOf(t))
	t.Cleanup(asker.close)
	return asker
}

var asked = Presented{Request: &http.Request{
	Method: "GET", RequestURI: "/v2/acme/app/manifests/v1?ns=ghcr.io&token=x", Host: "mirror.example.com", TLS: &tls.ConnectionState{},
	Header: http.Header{"Authorization": {"Basic Y2xpZW50OnNlY3JldA=="}, "X-Custom": {"a", "b"}, "X-Registry-Username": {"admin"}, "Cookie": {"c=d"}},
}}

// askedWith returns asked with a change.
func askedWith(change func(*http.Request)) Presented {
	r := *asked.Request
	change(&r)
	return Presented{Request: &r}
}

var pulled = Question{Action: GetManifest, Block: "ghcr.io", Name: "acme/app", Namespace: "ghcr.io/acme/app", Reference: "v1", Digest: "sha256:aa"}

// Only a 2xx allows. Answers that decide nothing deny, and are asked for again.
func TestWebhookAnswers(t *testing.T) {
	for status, want := range map[int]struct {
		allowed, fails bool
		asked          int32 // by three requests
	}{
		200: {allowed: true, asked: 1}, 204: {allowed: true, asked: 1}, 299: {allowed: true, asked: 1},
		401: {asked: 1}, 403: {asked: 1},
		302: {fails: true, asked: 3}, 304: {fails: true, asked: 3}, 400: {fails: true, asked: 3}, 404: {fails: true, asked: 3},
		429: {fails: true, asked: 3}, 500: {fails: true, asked: 3}, 503: {fails: true, asked: 3},
	} {
		s := newService(t, status)
		hook := s.webhook(t, nil)
		for range 3 {
			allowed, err := hook.allows(t.Context(), alice, pulled, asked)
			failed, fails := errors.AsType[*WebhookError](err)
			if allowed != want.allowed || fails != want.fails || fails && failed.Status != status {
				t.Errorf("%d: allowed %t, %v", status, allowed, err)
			}
		}
		if got := s.asked.Load(); got != want.asked {
			t.Errorf("%d: asked %d times, want %d", status, got, want.asked)
		}
	}
}

func TestWebhookThatIsAway(t *testing.T) {
	s := newService(t, 200)
	hook := s.webhook(t, nil)
	s.Close()
	allowed, err := hook.allows(t.Context(), alice, pulled, asked)
	if failed, ok := errors.AsType[*WebhookError](err); allowed || !ok || failed.Err == nil {
		t.Errorf("allowed %t, %v", allowed, err)
	}
}

// The headers are those of Angos.
func TestWebhookIsTold(t *testing.T) {
	s := newService(t, 200)
	everything := &Identity{
		ID: "alice-id", User: "alice", Address: netip.MustParseAddr("10.0.3.4"), OIDC: robot.OIDC,
		Certificate: &Certificate{CommonName: "node-1", Organizations: []string{"Platform", "Ops"}},
	}
	told := http.Header{
		"X-Forwarded-Method": {"GET"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"mirror.example.com"},
		"X-Forwarded-Uri": {"/v2/acme/app/manifests/v1?ns=ghcr.io&token=x"}, "X-Forwarded-For": {"10.0.3.4"},
		"X-Registry-Action": {"get-manifest"}, "X-Registry-Namespace": {"ghcr.io/acme/app"}, "X-Registry-Reference": {"v1"},
		"X-Registry-Username": {"alice"}, "X-Registry-Identity-Id": {"alice-id"},
		"X-Registry-Certificate-Cn": {"node-1"}, "X-Registry-Certificate-O": {"Platform", "Ops"},
	}
	stranger := http.Header{
		"X-Forwarded-Method": {"HEAD"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"m"}, "X-Forwarded-Uri": {"/v2/acme/app/blobs/sha256:aa"},
		"X-Registry-Action": {"get-blob"}, "X-Registry-Namespace": {"ghcr.io/acme/app"}, "X-Registry-Digest": {"sha256:aa"},
	}
	for _, test := range []struct {
		name   string
		change func(*Webhook)
		id     *Identity
		q      Question
		p      Presented
		want   http.Header
		extra  http.Header
	}{
		{"everything", nil, everything, pulled, asked, told, nil},
		{"nothing", nil, &Identity{Anonymous: true}, Question{Action: GetBlob, Namespace: "ghcr.io/acme/app", Digest: "sha256:aa"},
			Presented{Request: &http.Request{Method: "HEAD", Host: "m", RequestURI: "/v2/acme/app/blobs/sha256:aa"}}, stranger, nil},
		{"a token", func(w *Webhook) { w.BearerToken = "secret" }, everything, pulled, asked, told, http.Header{"Authorization": {"Bearer secret"}}},
		{"a password", func(w *Webhook) { w.Username, w.Password = "webhook", "secret" }, everything, pulled, asked, told, http.Header{"Authorization": {"Basic d2ViaG9vazpzZWNyZXQ="}}},
		{"headers of the client", func(w *Webhook) { w.ForwardHeaders = []string{"x-custom", "Authorization", "X-Missing"} }, everything, pulled, asked, told,
			http.Header{"Authorization": {"Basic Y2xpZW50OnNlY3JldA=="}, "X-Custom": {"a", "b"}}},
		{"a client cannot replace the token", func(w *Webhook) { w.BearerToken, w.ForwardHeaders = "secret", []string{"Authorization"} }, everything, pulled, asked, told,
			http.Header{"Authorization": {"Bearer secret"}}},
	} {
		if _, err := s.webhook(t, test.change).allows(t.Context(), test.id, test.q, test.p); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		want := test.want.Clone()
		for name, values := range test.extra {
			want[name] = values
		}
		want["User-Agent"], want["Accept-Encoding"] = []string{userAgent}, s.last["Accept-Encoding"]
		if diff := cmp.Diff(want, s.last); diff != "" {
			t.Errorf("%s: the webhook was told something else (-want +got):\n%s", test.name, diff)
		}
	}
}

// An answer holds for requests that tell the webhook the same.
func TestWebhookAnswersHoldForTheSame(t *testing.T) {
	s := newService(t, 200)
	hook := s.webhook(t, func(w *Webhook) { w.ForwardHeaders = []string{"X-Custom"} })
	ask := func(name string, want int32, i *Identity, q Question, p Presented) {
		t.Helper()
		before := s.asked.Load()
		for range 2 {
			if _, err := hook.allows(t.Context(), i, q, p); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := s.asked.Load() - before; got != want {
			t.Errorf("%s: asked %d times, want %d", name, got, want)
		}
	}
	ask("the first", 1, alice, pulled, asked)
	ask("the same", 0, alice, pulled, asked)
	ask("another forwarded header", 1, alice, pulled, askedWith(func(r *http.Request) { r.Header = http.Header{"X-Custom": {"a b"}} }))
	ask("another header", 0, alice, pulled, askedWith(func(r *http.Request) { r.Header = http.Header{"X-Custom": {"a", "b"}, "X-Other": {"c"}} }))
	ask("another query", 1, alice, pulled, askedWith(func(r *http.Request) { r.RequestURI += "&n=1" }))
	ask("another user", 1, &Identity{User: "alic", ID: "ealice-id", Address: alice.Address}, pulled, asked)
	ask("another address", 1, &Identity{User: "alice", ID: "alice-id", Address: stranger.Address}, pulled, asked)
	q := pulled
	q.Reference = "v2"
	ask("another tag", 1, alice, q, asked)
	q.Action = ListTags
	ask("another action", 1, alice, q, asked)
}

func TestWebhookAnswersEnd(t *testing.T) {
	s := newService(t, 200)
	hook := s.webhook(t, func(w *Webhook) { w.CacheTTL = 0 })
	for want := int32(1); want <= 3; want++ {
		if allowed, err := hook.allows(t.Context(), alice, pulled, asked); !allowed || err != nil || s.asked.Load() != want {
			t.Errorf("allowed %t, %v, asked %d times", allowed, err, s.asked.Load())
		}
	}
	hook = s.webhook(t, func(w *Webhook) { w.CacheTTL = time.Minute })
	hook.answers.Add(hook.tag(alice, pulled, asked), answer{allowed: true, at: time.Now().Add(-time.Minute)})
	s.answer(403)
	if allowed, err := hook.allows(t.Context(), alice, pulled, asked); allowed || err != nil {
		t.Errorf("an old answer holds: allowed %t, %v", allowed, err)
	}
}

// roundTrip is a transport that takes its time.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Requests that tell the same share a question, which outlives the client that left. A
// webhook has its time and no more, and a bounded number of questions.
func TestWebhookIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, questions atomic.Int32
		hook := newWebhook(Webhook{Name: "opa", URL: &url.URL{Scheme: "http", Host: "opa"}, Timeout: 3 * time.Second}, taggerOf(t))
		hook.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			questions.Add(1)
			now := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			wait := 2 * time.Second
			if r.Header.Get("X-Registry-Reference") == "slow" {
				wait = time.Hour
			}
			select {
			case <-time.After(wait):
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		var all sync.WaitGroup
		leaving, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		all.Go(func() {
			if allowed, err := hook.allows(leaving, alice, pulled, asked); allowed || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the client that left: allowed %t, %v", allowed, err)
			}
		})
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if allowed, err := hook.allows(t.Context(), alice, pulled, asked); !allowed || err != nil {
					t.Errorf("allowed %t, %v", allowed, err)
				}
			})
		}
		all.Wait()
		if questions.Load() != 1 {
			t.Errorf("%d questions, want 1", questions.Load())
		}
		start := time.Now()
		q := pulled
		q.Reference = "slow"
		if allowed, err := hook.allows(t.Context(), alice, q, asked); allowed || err == nil {
			t.Errorf("a webhook without an answer: allowed %t, %v", allowed, err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("waited %s for it", took)
		}
		for n := range 3 * maxQuestions {
			all.Go(func() {
				q := pulled
				q.Reference = "v" + time.Duration(n).String()
				_, _ = hook.allows(t.Context(), alice, q, asked)
			})
		}
		all.Wait()
		if most.Load() > maxQuestions {
			t.Errorf("%d questions at once", most.Load())
		}
	})
}

// Clients that ask and leave, each with a question of its own, leave no questions behind:
// those that wait end with their client, and those that run soon after.
func TestWebhookQuestionsEndWithTheirClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int32
		hook := newWebhook(Webhook{Name: "opa", URL: &url.URL{Scheme: "http", Host: "opa"}, Timeout: time.Minute}, taggerOf(t))
		hook.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			running.Add(1)
			defer running.Add(-1)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		before := runtime.NumGoroutine()
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		for n := range 10 * maxQuestions {
			go func() {
				p := askedWith(func(r *http.Request) { r.RequestURI = "/v2/app/manifests/v1?" + strconv.Itoa(n) })
				if allowed, err := hook.allows(ctx, alice, pulled, p); allowed || !errors.Is(err, context.Canceled) {
					t.Errorf("allowed %t, %v", allowed, err)
				}
			}()
		}
		synctest.Wait()
		if running.Load() != maxQuestions {
			t.Errorf("%d questions run", running.Load())
		}
		leave()
		synctest.Wait()
		if left := runtime.NumGoroutine() - before; left > 6*maxQuestions {
			t.Errorf("%d goroutines are left, of questions that waited", left)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if running.Load() != 0 || len(hook.slots) != 0 {
			t.Errorf("%d questions run, %d slots are taken", running.Load(), len(hook.slots))
		}
		hook.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
		if allowed, err := hook.allows(t.Context(), alice, pulled, asked); !allowed || err != nil {
			t.Errorf("an honest client: allowed %t, %v", allowed, err)
		}
	})
}

// A value that no header can have denies, and reaches no webhook.
func TestWebhookGetsNoForgedHeader(t *testing.T) {
	s := newService(t, 200)
	hook := s.webhook(t, nil)
	for _, user := range []string{"a\r\nX-Registry-Username: admin", "a\x00b", "a\nb"} {
		if allowed, err := hook.allows(t.Context(), &Identity{User: user}, pulled, asked); allowed || err == nil {
			t.Errorf("%q: allowed %t, %v", user, allowed, err)
		}
	}
	if s.asked.Load() != 0 {
		t.Errorf("asked %d times", s.asked.Load())
	}
}

func TestForwardedHeaders(t *testing.T) {
	for _, name := range []string{"X-Custom-Token", "x-request-id", "Authorization", "Cookie", "User-Agent"} {
		if err := CheckForwardedHeader(name); err != nil {
			t.Errorf("%q %v", name, err)
		}
	}
	for _, name := range []string{"", "X Custom", "X-Custom:", "X-Cüstom", "X-Registry-Username", "x-registry-anything", "X-FORWARDED-FOR", "Host", "connection", "Content-Length", "transfer-encoding"} {
		if CheckForwardedHeader(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
