package upstream_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// helper is a credential helper whose password changes.
type helper struct {
	t    *testing.T
	path string
}

func newHelper(t *testing.T) *helper {
	t.Helper()
	h := &helper{t, filepath.Join(t.TempDir(), "docker-credential-test")}
	text := "#!/bin/sh\necho run >> \"$0.runs\"\nexec cat \"$0.answer\"\n"
	if err := os.WriteFile(h.path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *helper) answer(password string) {
	h.t.Helper()
	h.answerAs("user", password)
}

func (h *helper) answerAs(username, password string) {
	h.t.Helper()
	if err := os.WriteFile(h.path+".answer", fmt.Appendf(nil, `{"Username":%q,"Secret":%q}`, username, password), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helper) runs() int {
	noted, _ := os.ReadFile(h.path + ".runs")
	return strings.Count(string(noted), "run")
}

func (h *helper) option(o *upstream.Options) {
	o.Helper = credhelper.New(h.path, "registry.test", 30*time.Minute, slog.New(slog.DiscardHandler))
}

// A password that was denied and may have expired is replaced, within the request. One
// that is young is denied for good, so that no helper runs for each request.
func TestHelperOfCredentials(t *testing.T) {
	for name, option := range map[string]upstreamtest.Option{
		"basic":  upstreamtest.WithBasic("user", "hunter2"),
		"bearer": upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2", OnRegistry: true}),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelper(t)
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), option)
				for _, repo := range []string{"a", "b", "c", "d", "e"} {
					r.AddImage(repo, "v1", []byte("layer"))
				}
				c := newClient(t, r, on(n), h.option)
				pull := func(step, repo string, want error, runs int) {
					t.Helper()
					_, err := c.Manifest(t.Context(), repo, oci.ByTag("v1"))
					if !errors.Is(err, want) {
						t.Errorf("%s: %v, want %v", step, err, want)
					}
					if err != nil && strings.Contains(err.Error(), "expired-secret") {
						t.Errorf("%s: the password shows: %v", step, err)
					}
					if h.runs() != runs {
						t.Errorf("%s: the helper ran %d times, want %d", step, h.runs(), runs)
					}
				}
				h.answer("expired-secret")
				pull("a wrong password", "a", upstream.ErrDenied, 1)
				h.answer("hunter2")
				if name == "basic" {
					pull("a young password is denied for good", "a", upstream.ErrDenied, 1)
					time.Sleep(time.Minute)
				}
				pull("an old one has expired", "a", nil, 2)
				pull("another repository", "b", nil, 2)
				time.Sleep(29 * time.Minute)
				pull("within its time", "c", nil, 2)
				time.Sleep(2 * time.Minute)
				pull("after its time", "d", nil, 3)
				time.Sleep(40 * time.Minute)
				h.answer("expired-secret")
				pull("wrong again, and denied once more", "e", upstream.ErrDenied, 4)
			})
		})
	}
}

// An identity token is exchanged at the token service alone, by a form. It shows in no
// error, reaches no other host, and one that has expired is replaced.
func TestIdentityTokenOfAHelper(t *testing.T) {
	const identity = "identity-token-of-the-helper"
	type step struct {
		helper string        // its token
		wait   time.Duration // before
		want   error
	}
	for name, c := range map[string]struct {
		option upstreamtest.Option
		steps  []step
	}{
		"good":                     {upstreamtest.WithBearer(upstreamtest.Bearer{IdentityToken: identity}), []step{{identity, 0, nil}, {identity, 0, nil}}},
		"good, access_token alone": {upstreamtest.WithBearer(upstreamtest.Bearer{IdentityToken: identity, AccessTokenOnly: true}), []step{{identity, 0, nil}}},
		"without a scope":          {upstreamtest.WithBearer(upstreamtest.Bearer{IdentityToken: identity, OmitScope: true, OnRegistry: true}), []step{{identity, 0, nil}}},
		"expired, then another":    {upstreamtest.WithBearer(upstreamtest.Bearer{IdentityToken: identity}), []step{{"expired-identity", 0, upstream.ErrDenied}, {identity, 2 * time.Minute, nil}}},
		"a service for passwords":  {upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"}), []step{{identity, 0, upstream.ErrDenied}}},
		"a registry for passwords": {upstreamtest.WithBasic("user", "hunter2"), []step{{identity, 0, upstream.ErrUnavailable}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelper(t)
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), c.option)
				cl := newClient(t, r, on(n), h.option)
				for i, s := range c.steps {
					repo := fmt.Sprint("app", i)
					r.AddImage(repo, "v1", []byte("layer"))
					time.Sleep(s.wait)
					h.answerAs("<token>", s.helper)
					_, err := cl.Manifest(t.Context(), repo, oci.ByTag("v1"))
					if !errors.Is(err, s.want) || s.want == nil && err != nil {
						t.Errorf("step %d: %v, want %v", i, err, s.want)
					}
					if err != nil && strings.Contains(err.Error(), s.helper) {
						t.Errorf("step %d: the token shows: %v", i, err)
					}
					if strings.HasPrefix(name, "a registry") && !strings.Contains(err.Error(), "requires a username and a password") {
						t.Errorf("the reason is %v", err)
					}
				}
			})
		})
	}
}

// A token service that redirects to another host takes no identity token along, whether the
// redirect keeps the method or not.
func TestIdentityTokenStaysAtItsService(t *testing.T) {
	h := newHelper(t)
	h.answerAs("<token>", "identity-token-of-the-helper")
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		other := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
		r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
		r.Fault(upstreamtest.Tokens, upstreamtest.Status(status, ""), upstreamtest.Header("Location", other.TokenURL()))
		_, err := newClient(t, r, h.option).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrDenied) // the other's token is worth nothing here
		if len(other.TokenRequests()) == 0 {
			t.Errorf("%d: the redirect was not followed", status)
		}
		for _, record := range other.Log() {
			if record.Method != http.MethodGet || strings.Contains(record.URI+fmt.Sprint(record.Header), "identity-token") {
				t.Errorf("%d: the other host got %v", status, record)
			}
		}
	}
}

// ECR denies an expired password with 403 and without a challenge.
func TestHelperAfterForbidden(t *testing.T) {
	h := newHelper(t)
	h.answer("hunter2")
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("user", "hunter2"))
		r.AddImage("app", "v1", []byte("layer"))
		c := newClient(t, r, on(n), h.option)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		time.Sleep(time.Minute)
		once := 0
		r.Fault(func(*http.Request) bool { once++; return once == 1 }, upstreamtest.Status(403, `{"errors":[{"code":"DENIED","message":"Your authorization token has expired"}]}`))
		r.ResetRequests()
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
		want := []string{"GET /v2/app/manifests/v1 403", "GET /v2/app/manifests/v1 200"}
		if diff := cmp.Diff(want, r.Requests()); diff != "" || h.runs() != 2 {
			t.Errorf("%d runs, %s", h.runs(), diff)
		}
	})
}

// A public registry never has the helper run, and a helper that fails sends no request
// and starts no cooldown.
func TestHelperIsRunWhenItIsNeeded(t *testing.T) {
	h := newHelper(t) // without an answer: cat fails
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		public := upstreamtest.New(t, upstreamtest.WithNetwork(n, "public.test"))
		public.AddImage("app", "v1", []byte("layer"))
		must[*oci.Manifest](t)(newClient(t, public, on(n), h.option).Manifest(t.Context(), "app", oci.ByTag("v1")))
		if h.runs() != 0 {
			t.Errorf("the helper ran %d times for a public registry", h.runs())
		}
		private := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBasic("user", "hunter2"))
		private.AddImage("app", "v1", []byte("layer"))
		c := newClient(t, private, on(n), h.option)
		for range 5 {
			_, err := c.Manifest(t.Context(), "app", oci.ByTag("v1"))
			if e := wantError(t, err, upstream.ErrUnavailable); e.Remedy() != upstream.CheckHelper {
				t.Errorf("the remedy of %v is %d", err, e.Remedy())
			}
		}
		if h.runs() != 1 {
			t.Errorf("the helper ran %d times within a moment", h.runs())
		}
		h.answer("hunter2")
		time.Sleep(5 * time.Second)
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "app", oci.ByTag("v1")))
	})
}
