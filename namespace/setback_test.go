package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// passing are failures of an upstream after which it is asked again.
var passing = map[string]upstreamtest.Effect{
	"502": upstreamtest.Status(502, ""), "503": upstreamtest.Status(503, "<html>"), "504": upstreamtest.Status(504, ""), "reset": upstreamtest.Drop(),
}

// A cached tag is served at the first failure, without a pause, and the upstream gets the
// same requests as if the client waited: three HEADs and three GETs. Clients that come while
// these go on cause none.
func TestStaleAtFirstFailure(t *testing.T) {
	for name, effect := range passing {
		for way, ask := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
					image := r.AddImage("app", "tag", []byte("a layer"))
					get(t, n, "app", "tag")
					time.Sleep(time.Hour) // no connection is left, on which a request is repeated at once
					r.ResetRequests()
					fault := r.Fault(upstreamtest.Manifests, effect)
					began := time.Now()
					together(upstreamtest.NewGate(), 20, func(int) {
						wantManifest(t, ask(t, n, "app", "tag"), namespace.Stale, image)
					})
					wantManifest(t, ask(t, n, "app", "tag"), namespace.Stale, image)
					if took := time.Since(began); took != 0 {
						t.Errorf("the clients waited for %v", took)
					}
					if got := fault.Hits(); got != 1 {
						t.Errorf("%d requests before the answer, want 1", got)
					}
					time.Sleep(time.Second)
					if got := fault.Hits(); got != 6 {
						t.Errorf("%d requests: %q, want 6", got, r.Requests())
					}
				})
			})
		}
	}
}

// The retries behind a stale answer find the present answer for the next request.
func TestRetriesBehindAnswer(t *testing.T) {
	for way, ask := range ways {
		for failures := 1; failures <= 5; failures++ {
			t.Run(fmt.Sprint(failures, " failures, ", way), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r, tagTTL(time.Hour), staleOn(upstream.ClassUnavailable))
					old := r.AddImage("app", "tag", []byte("a layer"))
					get(t, n, "app", "tag")
					time.Sleep(time.Hour)
					moved := r.AddImage("app", "tag", []byte("another layer"))
					r.Fault(upstreamtest.Manifests, upstreamtest.Status(503, "")).Times(failures)
					wantManifest(t, ask(t, n, "app", "tag"), namespace.Stale, old)
					time.Sleep(time.Second)
					if way == "GET" || failures > 2 { // with a GET in place of the HEAD
						wantManifest(t, ask(t, n, "app", "tag"), namespace.Hit, moved)
					} else { // a HEAD stores nothing
						wantManifest(t, ask(t, n, "app", "tag"), namespace.Moved, moved)
					}
				})
			})
		}
	}
}

// Clients wait for the retries if the cache has no answer that may stand in for the failure.
func TestWaitForRetries(t *testing.T) {
	for name, c := range map[string]struct {
		change []func(*namespace.Spec)
		tag    string
		want   namespace.CacheStatus
	}{
		"not cached":           {[]func(*namespace.Spec){staleOn(upstream.ClassUnavailable)}, "other", namespace.Miss},
		"never stale":          {[]func(*namespace.Spec){staleOn()}, "tag", namespace.Revalidated},
		"another class":        {[]func(*namespace.Spec){staleOn(upstream.ClassRateLimited)}, "tag", namespace.Revalidated},
		"beyond max_stale":     {[]func(*namespace.Spec){staleOn(upstream.ClassUnavailable), maxStale(time.Minute)}, "tag", namespace.Revalidated},
		"a right without word": {[]func(*namespace.Spec){staleOn(), rechecking, immutable}, "tag", namespace.Revalidated},
	} {
		for way, ask := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r, c.change...)
					images := map[string]ocispec.Descriptor{
						"tag": r.AddImage("app", "tag", []byte("a layer")), "other": r.AddImage("app", "other", []byte("another layer")),
					}
					get(t, n, "app", "tag")
					time.Sleep(25 * time.Hour)
					r.Fault(upstreamtest.Manifests, upstreamtest.Status(503, "")).Times(2)
					want := c.want
					if want == namespace.Miss && way == "HEAD" {
						want = namespace.Passed
					}
					wantManifest(t, ask(t, n, "app", c.tag), want, images[c.tag])
				})
			})
		}
	}
}

// Whatever has to confirm a cached answer, its first failure ends the wait.
func TestOtherPlacesOfTheSameKind(t *testing.T) {
	layer := []byte("a layer")
	dgst := digest.FromBytes(layer)
	var subject digest.Digest
	type client func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error)
	tag := func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
		m, err := n.Head(t.Context(), "app", reference(t, "tag"))
		if err != nil {
			return namespace.Outcome{}, err
		}
		return m.Outcome, nil
	}
	for name, c := range map[string]struct {
		options []upstreamtest.Option
		change  func(*namespace.Spec)
		before  func(r *upstreamtest.Registry) // the failure
		match   upstreamtest.Match
		effect  upstreamtest.Effect
		ask     client
		hits    int // failures before the answer
	}{
		"token service":          {options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}, match: upstreamtest.Tokens, effect: upstreamtest.Status(503, ""), ask: tag, hits: 1},
		"token service, reset":   {options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}, match: upstreamtest.Tokens, effect: upstreamtest.Drop(), ask: tag, hits: 1},
		"token service, a limit": {options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}, match: upstreamtest.Tokens, effect: upstreamtest.Status(429, ""), ask: tag, hits: 1},
		"a limit":                {match: upstreamtest.Manifests, effect: upstreamtest.Status(429, ""), ask: tag, hits: 1},
		"500":                    {match: upstreamtest.Manifests, effect: upstreamtest.Status(500, ""), ask: tag, hits: 2}, // GET decides about a HEAD that may be refused
		"the new manifest": {before: func(r *upstreamtest.Registry) { r.AddImage("app", "tag", []byte("new")) },
			match: upstreamtest.Method("GET"), effect: upstreamtest.Status(503, ""), hits: 1,
			ask: func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
				got := get(t, n, "app", "tag")
				return namespace.Outcome{Cache: got.Cache}, got.err
			}},
		"the new manifest, cut": {before: func(r *upstreamtest.Registry) { r.AddImage("app", "tag", []byte("new")) },
			match: upstreamtest.Method("GET"), effect: upstreamtest.CutAfter(10), hits: 2, // by digest, and by tag
			ask: func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
				got := get(t, n, "app", "tag")
				return namespace.Outcome{Cache: got.Cache}, got.err
			}},
		"list of tags": {match: upstreamtest.Tags, effect: upstreamtest.Status(503, ""), hits: 1,
			ask: func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
				list, err := n.Tags(t.Context(), "app", nil)
				if err != nil {
					return namespace.Outcome{}, err
				}
				return list.Outcome, nil
			}},
		"referrers": {match: upstreamtest.Any, effect: upstreamtest.Status(503, ""), hits: 1,
			ask: func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
				list, err := n.Referrers(t.Context(), "app", subject, "")
				if err != nil {
					return namespace.Outcome{}, err
				}
				return list.Outcome, nil
			}},
		"right to a blob": {change: rechecking, match: upstreamtest.Blobs, effect: upstreamtest.Status(503, ""), hits: 1,
			ask: func(t *testing.T, n *namespace.Namespace) (namespace.Outcome, error) {
				b, err := n.HeadBlob(t.Context(), "app", dgst)
				if err != nil {
					return namespace.Outcome{}, err
				}
				return b.Outcome, nil
			}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example", c.options...)
				change := []func(*namespace.Spec){staleOn(upstream.ClassUnavailable, upstream.ClassRateLimited)}
				if c.change != nil {
					change = append(change, c.change)
				}
				n := m.namespace("up.example", r, change...)
				image := r.AddImage("app", "tag", layer)
				subject = image.Digest
				r.AddReferrer("app", image, "example/type", []byte("a signature"))
				get(t, n, "app", "tag")
				if got := getBlob(t, n, "app", dgst); got.err != nil {
					t.Fatal(got.err)
				}
				if _, err := c.ask(t, n); err != nil {
					t.Fatal(err)
				}
				time.Sleep(25 * time.Hour)
				if c.before != nil {
					c.before(r)
				}
				fault := r.Fault(c.match, c.effect)
				began := time.Now()
				o, err := c.ask(t, n)
				if err != nil || o.Cache != namespace.Stale {
					t.Errorf("got %+v, %v, want a stale answer", o, err)
				}
				if took := time.Since(began); took != 0 || fault.Hits() != c.hits {
					t.Errorf("after %v and %d failures, want %d at once", took, fault.Hits(), c.hits)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
			})
		})
	}
}

// A further upstream that may answer is asked before the cache answers, and the first one is
// tried as before: a hiccup of it must not let a stand-in name the tag.
func TestSetbackInChain(t *testing.T) {
	for name, c := range map[string]struct {
		fallbackOn []upstream.Class
		second     upstreamtest.Effect // nil: it answers
		want       namespace.CacheStatus
		atOnce     bool
	}{
		"the second answers":       {nil, nil, namespace.Revalidated, false},
		"the second fails":         {nil, upstreamtest.Status(503, ""), namespace.Stale, false},
		"the second is limited":    {nil, upstreamtest.Status(429, ""), namespace.Stale, false},
		"the second is not asked":  {[]upstream.Class{upstream.ClassNotFound}, nil, namespace.Stale, true},
		"no member stands in ever": {[]upstream.Class{}, nil, namespace.Stale, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				first, second := m.registry("first.example"), m.registry("second.example")
				n := m.fallingBack("mix", c.fallbackOn, []*upstreamtest.Registry{first, second}, staleOn(upstream.ClassUnavailable, upstream.ClassRateLimited))
				image := first.AddImage("app", "tag", []byte("a layer"))
				second.AddImage("app", "tag", []byte("a layer"))
				get(t, n, "app", "tag")
				first.Fault(upstreamtest.Manifests, upstreamtest.Status(503, ""))
				if c.second != nil {
					second.Fault(upstreamtest.Manifests, c.second)
				}
				began := time.Now()
				wantManifest(t, get(t, n, "app", "tag"), c.want, image)
				if took := time.Since(began); (took == 0) != c.atOnce {
					t.Errorf("it took %v", took)
				}
				time.Sleep(5 * time.Second)
			})
		})
	}
	// One failure of the first upstream does not send the question on.
	bubble(t, func(t *testing.T, m *mirror) {
		first, second := m.registry("first.example"), m.registry("second.example")
		n := m.chain("mix", []*upstreamtest.Registry{first, second}, staleOn(upstream.ClassUnavailable))
		image := first.AddImage("app", "tag", []byte("a layer"))
		second.AddImage("app", "tag", []byte("an older layer"))
		get(t, n, "app", "tag")
		first.Fault(upstreamtest.Manifests, upstreamtest.Status(503, "")).Times(1)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
		wantRequests(t, second)
	})
}

// The class of a setback is that of the chain: where 429 is not answered from the cache, a
// chain with a limited member is not either.
func TestClassOfSetbackInChain(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		first, second := m.registry("first.example"), m.registry("second.example")
		n := m.chain("mix", []*upstreamtest.Registry{first, second}, staleOn(upstream.ClassUnavailable))
		first.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		first.Fault(upstreamtest.Manifests, upstreamtest.Status(429, ""))
		second.Fault(upstreamtest.Manifests, upstreamtest.Status(503, ""))
		if got := get(t, n, "app", "tag"); !errors.Is(got.err, upstream.ErrRateLimited) {
			t.Errorf("got %+v", got)
		}
	})
}

// A retry that hangs stands for the upstream during two seconds. Then the next client asks
// again, and sees that the upstream is back.
func TestRetryThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		fault := r.Fault(upstreamtest.Manifests, upstreamtest.Status(503, "")).Times(1)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		gate := upstreamtest.NewGate()
		fault.Remove()
		held := r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate)).Times(2) // the retry, also on a new connection
		time.Sleep(1900 * time.Millisecond)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		time.Sleep(200 * time.Millisecond)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
		if held.Hits() == 0 {
			t.Error("the retry did not hang")
		}
		gate.Open()
		time.Sleep(time.Minute)
	})
}

// A client that leaves with a stale answer does not end the retries, and the end of the
// mirror does.
func TestEndDuringRetries(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		fault := r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusServiceUnavailable, ""))
		ctx, leave := context.WithCancel(t.Context())
		wantManifest(t, read(t)(n.Manifest(ctx, "app", reference(t, "tag"))), namespace.Stale, image)
		leave()
		time.Sleep(time.Second)
		if got := fault.Hits(); got != 6 {
			t.Errorf("%d requests, want 6", got)
		}
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		began := time.Now()
		m.cache.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("closing took %v", took)
		}
	})
}

// settled are answers that are shared with replicas, and the times at which they came.
type settled struct {
	bodies []string
	at     []time.Time
}

func (s *settled) Ask(context.Context, string) (body []byte, age time.Duration, settle func([]byte, time.Duration)) {
	return nil, 0, func(body []byte, _ time.Duration) {
		s.bodies, s.at = append(s.bodies, string(body)), append(s.at, time.Now())
	}
}

func (*settled) Look(context.Context, string) (body []byte, age time.Duration) { return nil, 0 }

func (*settled) Tell(context.Context, string, []byte, time.Duration) {}

// Other replicas do not wait for the retries either: they hear at the first failure that this
// one has no answer, and nothing after that.
func TestReplicasAtFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers, store := new(settled), storagetest.NewMemory(t)
		m := newMirrorWith(t, store, store, 4, nil, "", func(o *namespace.CacheOptions) { o.Answers = answers })
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		*answers = settled{}
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(503, "")).Times(2)
		began := time.Now()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		time.Sleep(time.Second)
		if len(answers.at) != 1 || answers.bodies[0] != "" || !answers.at[0].Equal(began) {
			t.Errorf("told %q at %v, want nothing at %v", answers.bodies, answers.at, began)
		}
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
		if len(answers.at) != 2 || answers.bodies[1] == "" {
			t.Errorf("told %q", answers.bodies)
		}
	})
}

// A client whose own right is in grace gets its answer at the first failure, too.
func TestGraceAtFirstFailure(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example", upstreamtest.WithAccounts(account(alice, "app")), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		n := m.namespace("up.example", r, onBehalf(time.Hour))
		img := addImage(r, "a layer")
		ctx := upstream.OnBehalf(t.Context(), alice)
		pull := func() (took time.Duration, err error) {
			began := time.Now()
			for _, q := range questions(t) {
				if q.name == "tag" || q.name == "blob" {
					err = errors.Join(err, q.ask(ctx, n, img))
				}
			}
			return time.Since(began), err
		}
		if _, err := pull(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		r.Fault(upstreamtest.Any, upstreamtest.Status(503, ""))
		if took, err := pull(); err != nil || took != 0 {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(5 * time.Second)
	})
}

// An upstream that cannot be reached costs a cached tag no pause either.
func TestStaleWithoutConnection(t *testing.T) {
	// answering returns a connection to a server that says something else than TLS.
	answering := func(text string) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				_, _ = server.Read(make([]byte, 64<<10)) // the whole hello
				_, _ = io.WriteString(server, text)
			}()
			return client, nil
		}
	}
	for name, dial := range map[string]func() (net.Conn, error){
		"refused":      func() (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		"no route":     func() (net.Conn, error) { return nil, syscall.EHOSTUNREACH },
		"no such host": func() (net.Conn, error) { return nil, &net.DNSError{Err: "no such host", IsNotFound: true} },
		"DNS is away":  func() (net.Conn, error) { return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true} },
		"no TLS":       answering("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"a TLS alert":  answering("\x15\x03\x03\x00\x02\x02\x28"), // handshake_failure
		"closed":       answering(""),
	} {
		for way, ask := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example", upstreamtest.WithTLS())
					away := false
					client := upstream.NewClient(upstream.Options{
						URL: r.URL, RootCAs: r.RootCAs(), ConnectTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second,
						DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
							if away {
								return dial()
							}
							return m.network.DialContext(ctx, network, addr)
						},
					})
					defer client.Close()
					n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable), func(s *namespace.Spec) {
						s.Upstreams = upstream.NewChain(upstream.ChainOptions{}, client)
					})
					image := r.AddImage("app", "tag", []byte("a layer"))
					get(t, n, "app", "tag")
					time.Sleep(time.Hour) // no connection is left
					away = true
					began := time.Now()
					for range 5 {
						wantManifest(t, ask(t, n, "app", "tag"), namespace.Stale, image)
					}
					if took := time.Since(began); took != 0 {
						t.Errorf("the clients waited for %v", took)
					}
					time.Sleep(time.Minute)
				})
			})
		}
	}
}
