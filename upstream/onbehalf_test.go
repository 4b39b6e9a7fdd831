package upstream_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

var alice = upstream.Credential{ID: "a", Username: "alice", Password: "secret of alice"}

func as(t *testing.T, c upstream.Credential) context.Context {
	return upstream.OnBehalf(t.Context(), c)
}

// A grant is a token where the registry has a token service, and the password, checked,
// where it has none.
func TestGrant(t *testing.T) {
	accounts := upstreamtest.WithAccounts(
		upstreamtest.Account{Username: "alice", Password: alice.Password, Repositories: []string{"app"}},
		upstreamtest.Account{Repositories: []string{"public"}},
	)
	wrong := upstream.Credential{ID: "w", Username: "alice", Password: "guessed"}
	guest := upstream.Credential{ID: "anonymous"}
	for name, test := range map[string]struct {
		options []upstreamtest.Option
		sender  upstream.Credential
		token   bool
		denied  bool
	}{
		"token":             {[]upstreamtest.Option{accounts, upstreamtest.WithBearer(upstreamtest.Bearer{})}, alice, true, false},
		"refused token":     {[]upstreamtest.Option{accounts, upstreamtest.WithBearer(upstreamtest.Bearer{})}, wrong, false, true},
		"anonymous token":   {[]upstreamtest.Option{accounts, upstreamtest.WithBearer(upstreamtest.Bearer{})}, guest, true, false},
		"password":          {[]upstreamtest.Option{upstreamtest.WithBasic("alice", alice.Password)}, alice, false, false},
		"refused password":  {[]upstreamtest.Option{upstreamtest.WithBasic("alice", alice.Password)}, wrong, false, true},
		"open registry":     {nil, alice, false, false},
		"token of a client": {[]upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}, upstream.Credential{ID: "t", Token: "x"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, test.options...)
			r.AddImage("app", "v1", []byte("layer"))
			c := newClient(t, r)
			grant, err := c.Grant(as(t, test.sender), "app")
			if test.denied != errors.Is(err, upstream.ErrDenied) || !test.denied && err != nil {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				if strings.Contains(err.Error(), "guessed") {
					t.Errorf("the error has the password: %v", err)
				}
				return
			}
			if grant.ID != test.sender.ID || test.token && (grant.Token == "" || grant.Password != "" || grant.Expires.Before(time.Now())) {
				t.Errorf("got %+v", grant)
			}
			if !test.token && grant.Credential != test.sender {
				t.Errorf("got %+v", grant)
			}
			if test.sender == alice {
				if _, err := c.Head(as(t, grant.Credential), "app", oci.ByTag("v1")); err != nil {
					t.Errorf("a request with the grant: %v", err)
				}
			}
		})
	}
}

// countingStore counts the tokens that instances would share.
type countingStore struct {
	tokencache.Store
	writes atomic.Int64
}

func (s *countingStore) Set(ctx context.Context, key tokencache.Key, token tokencache.Token) error {
	s.writes.Add(1)
	return s.Store.Set(ctx, key, token)
}

// The configured credentials are not those of a client, and the client's never go to
// Redis, to the operator's report of refused credentials, or into an error.
func TestCredentialsOfAClientStayApart(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithAccounts(
		upstreamtest.Account{Username: "mirror", Password: "secret of the mirror", Repositories: []string{"app"}},
		upstreamtest.Account{Username: "alice", Password: alice.Password, Repositories: []string{"app"}},
	))
	r.AddImage("app", "v1", []byte("layer"))
	shared := &countingStore{Store: tokencache.NewMemory(100)}
	tokens := tokencache.New(tokencache.NewMemory(100), shared)
	defer tokens.Close()
	reported := 0
	c := upstream.NewClient(upstream.Options{
		URL: r.URL, Username: "mirror", Password: "secret of the mirror", Tokens: tokens,
		OnDenied: func(*upstream.Error) { reported++ },
	})
	defer c.Close()
	if _, err := c.Head(t.Context(), "app", oci.ByTag("v1")); err != nil {
		t.Fatal(err)
	}
	kept := shared.writes.Load()
	if kept != 1 {
		t.Errorf("%d tokens of the mirror's are shared", kept)
	}
	for _, sender := range []upstream.Credential{{ID: "anonymous"}, {ID: "w", Username: "mirror", Password: "guessed"}, {ID: "t", Token: "a forged token"}} {
		_, err := c.Head(as(t, sender), "app", oci.ByTag("v1"))
		if !errors.Is(err, upstream.ErrDenied) {
			t.Errorf("%s: %v", sender.ID, err)
		}
	}
	// The registry repeats the credential.
	r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"not for a forged token"}]}`)).Times(1)
	_, err := c.Manifest(as(t, upstream.Credential{ID: "t", Token: "a forged token"}), "app", oci.ByTag("v1"))
	if err == nil || strings.Contains(err.Error(), "forged token") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Head(as(t, alice), "app", oci.ByTag("v1")); err != nil {
		t.Error(err)
	}
	if shared.writes.Load() != kept || reported != 0 {
		t.Errorf("%d tokens are shared, %d refusals reported", shared.writes.Load(), reported)
	}
}

// The rate limit of one client's account stops neither other clients nor the mirror.
func TestLimitOfAClient(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("app", "v1", []byte("layer"))
	c := newClient(t, r)
	limit := r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusTooManyRequests, ""))
	ask := func(ctx context.Context) error { _, err := c.Head(ctx, "app", oci.ByTag("v1")); return err }
	if err := ask(as(t, alice)); !errors.Is(err, upstream.ErrRateLimited) {
		t.Fatal(err)
	}
	limit.Remove()
	if err := ask(as(t, alice)); !errors.Is(err, upstream.ErrRateLimited) {
		t.Errorf("the limited client: %v", err)
	}
	for name, ctx := range map[string]context.Context{"another client": as(t, upstream.Credential{ID: "b", Username: "bob"}), "the mirror": t.Context()} {
		if err := ask(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a registry says to one client changes neither the requests that another one costs
// nor their answers.
func TestAnswersToAClientAreItsOwn(t *testing.T) {
	bob := upstream.Credential{ID: "b", Username: "bob", Password: "secret of bob"}
	guest := upstream.Credential{ID: "anonymous"}
	accounts := upstreamtest.WithAccounts(
		upstreamtest.Account{Username: "alice", Password: alice.Password, Repositories: []string{"app"}},
		upstreamtest.Account{Username: "bob", Password: bob.Password},
	)
	broken := func(r *upstreamtest.Registry) {
		r.Fault(upstreamtest.Referrers, upstreamtest.Status(http.StatusInternalServerError, ""))
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusForbidden, `{"errors":[{"code":"DENIED"}]}`))
	}
	for name, test := range map[string]struct {
		options []upstreamtest.Option
		other   upstream.Credential // that asks first, or in between
		first   func(ctx context.Context, c *upstream.Client, img digest.Digest) error
		between func(r *upstreamtest.Registry)
		ask     func(ctx context.Context, c *upstream.Client, img digest.Digest) error
		sender  upstream.Credential
	}{
		"the root's challenge, after a client without a password": {
			options: []upstreamtest.Option{upstreamtest.WithHiddenContent(http.StatusNotFound)}, other: guest, sender: alice,
			first: func(ctx context.Context, c *upstream.Client, _ digest.Digest) error {
				_, err := c.Grant(ctx, "app")
				return err
			},
			ask: func(ctx context.Context, c *upstream.Client, _ digest.Digest) error {
				_, err := c.Head(ctx, "app", oci.ByTag("v1"))
				return err
			},
		},
		"the check of a password, after a client without one": {
			options: []upstreamtest.Option{upstreamtest.WithHiddenContent(http.StatusNotFound)}, other: guest, sender: upstream.Credential{ID: "w", Username: "alice", Password: "guessed"},
			first: func(ctx context.Context, c *upstream.Client, _ digest.Digest) error {
				_, err := c.Grant(ctx, "")
				return err
			},
			ask: func(ctx context.Context, c *upstream.Client, _ digest.Digest) error {
				_, err := c.Grant(ctx, "")
				return err
			},
		},
		"HEADs, after the refusal of a digest that one named": {
			other: bob, sender: alice,
			first: func(ctx context.Context, c *upstream.Client, img digest.Digest) error {
				_, err := c.Manifest(ctx, "app", oci.ByDigest(img))
				return err
			},
			ask: func(ctx context.Context, c *upstream.Client, _ digest.Digest) error {
				_, err := c.Head(ctx, "app", oci.ByTag("v1"))
				return err
			},
		},
		"a broken list of referrers, after one that was read": {
			other: alice, sender: bob,
			first: func(ctx context.Context, c *upstream.Client, img digest.Digest) error {
				_, err := c.Referrers(ctx, "app", img, "")
				return err
			},
			between: broken,
			ask: func(ctx context.Context, c *upstream.Client, img digest.Digest) error {
				_, err := c.Referrers(ctx, "app", img, "")
				return err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			outcome := func(asked bool) (string, []string) {
				r := upstreamtest.New(t, append(test.options, accounts)...)
				img := r.AddImage("app", "v1", []byte("layer")).Digest
				c := newClient(t, r)
				_, _ = c.Head(as(t, alice), "app", oci.ByTag("v1"))
				if test.options != nil { // the sender is new to the registry
					c = newClient(t, r)
				}
				if asked {
					_ = test.first(as(t, test.other), c, img)
				}
				if test.between != nil {
					test.between(r)
				}
				r.ResetRequests()
				err := test.ask(as(t, test.sender), c, img)
				failure := "none"
				if failed, ok := errors.AsType[*upstream.Error](err); ok {
					failure = failed.Class.String() + " " + http.StatusText(failed.Status)
				}
				return failure, r.Requests()
			}
			wantFailure, wantRequests := outcome(false)
			failure, requests := outcome(true)
			if failure != wantFailure || !slices.Equal(requests, wantRequests) {
				t.Errorf("%s by %q, and %s by %q without the other client", failure, requests, wantFailure, wantRequests)
			}
		})
	}
}

// A token that a password was exchanged for ends after five minutes, however long the
// registry accepts it: the account may be closed.
func TestTokensOfClientsAreShort(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		account := upstreamtest.Account{Username: "alice", Password: alice.Password, Repositories: []string{"app"}}
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{TTL: 12 * time.Hour}), upstreamtest.WithAccounts(account))
		r.AddImage("app", "v1", []byte("layer"))
		c := newClient(t, r, on(n))
		ask := func() error { _, err := c.Head(as(t, alice), "app", oci.ByTag("v1")); return err }
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		if grant, err := c.Grant(as(t, alice), "app"); err != nil || time.Until(grant.Expires) > 5*time.Minute {
			t.Errorf("%v for %v", err, time.Until(grant.Expires))
		}
		account.Password = "another one"
		r.SetAccounts(account)
		time.Sleep(4 * time.Minute)
		if err := ask(); err != nil {
			t.Errorf("within five minutes: %v", err)
		}
		time.Sleep(time.Minute)
		if err := ask(); !errors.Is(err, upstream.ErrDenied) {
			t.Errorf("after them: %v", err)
		}
	})
}
