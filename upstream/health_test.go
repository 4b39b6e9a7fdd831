package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// pair is a chain of two members on a network in memory.
type pair struct {
	*upstream.Chain
	net           *upstreamtest.Network
	first, second *upstreamtest.Registry
	a, b          *upstream.Client
	log           *testutil.LogBuffer
}

const firstAddr = "first.test:80"

func newPair(t *testing.T, n *upstreamtest.Network) *pair {
	t.Helper()
	p := &pair{
		net:    n,
		first:  upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test")),
		second: upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test")),
		log:    new(testutil.LogBuffer),
	}
	logged := func(o *upstream.Options) { o.Logger = slog.New(slog.NewTextHandler(p.log, nil)) }
	p.a, p.b = newClient(t, p.first, on(n), logged), newClient(t, p.second, on(n), logged)
	p.Chain = upstream.NewChain(upstream.ChainOptions{Logger: slog.New(slog.NewTextHandler(p.log, nil))}, p.a, p.b)
	for _, r := range []*upstreamtest.Registry{p.first, p.second} {
		r.AddImage("repo", "latest", []byte("layer"))
	}
	return p
}

// ask pulls a manifest, checks which member answered, and returns how long that took.
func (p *pair) ask(t *testing.T, want *upstreamtest.Registry) time.Duration {
	t.Helper()
	start := time.Now()
	m := must[*oci.Manifest](t)(p.Manifest(t.Context(), "repo", oci.ByTag("latest")))
	if m.Upstream != want.Host {
		t.Errorf("%s answered, want %s", m.Upstream, want.Host)
	}
	return time.Since(start)
}

// From the fourth request on, a dead first upstream costs no request any time: a
// probe beside the requests finds out whether it is back.
func TestDeadFirstMemberCostsNothing(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		p.first.Close()
		n.Hang(firstAddr, true)
		for range 3 {
			if took := p.ask(t, p.second); took != 2*time.Second { // the connect timeout
				t.Errorf("a request took %v", took)
			}
		}
		dials := 3
		for _, pause := range []time.Duration{10, 20, 40, 60, 60} {
			for _, wait := range []time.Duration{0, pause*time.Second - 1, 1} {
				time.Sleep(wait)
				if wait == 1 {
					dials++ // the probe
				}
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						if took := p.ask(t, p.second); took != 0 {
							t.Errorf("a request took %v", took)
						}
					})
				}
				all.Wait()
				synctest.Wait()
				if got := n.Dials(firstAddr); got != dials {
					t.Fatalf("%d connects, want %d", got, dials)
				}
			}
			time.Sleep(2 * time.Second) // until the probe has failed
			synctest.Wait()
		}
		n.Hang(firstAddr, false)
		p.first.Reopen()
		time.Sleep(time.Minute)
		p.ask(t, p.second) // lets the first one be probed
		synctest.Wait()
		p.ask(t, p.first)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, want := range []string{"the upstream is unreachable", "the upstream is reachable again"} {
			if !strings.Contains(p.log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, p.log)
			}
		}
		if got := strings.Count(p.log.String(), "asking the next one"); got != 3 {
			t.Errorf("the log tells %d times that the next one is asked, want 3: for those that tried", got)
		}
	})
}

// If the other members do not have the content, the half-open member is asked.
func TestHalfOpenMemberIsTheLastResort(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		p.first.Close()
		for range 3 {
			p.ask(t, p.second)
		}
		only := p.first.AddImage("repo", "only", []byte("here"))
		p.first.Reopen()
		time.Sleep(10 * time.Second)
		m := must[*oci.Manifest](t)(p.Manifest(t.Context(), "repo", oci.ByTag("only")))
		if m.Descriptor.Digest != only.Digest {
			t.Errorf("got %v", m.Descriptor)
		}
	})
}

// A probe in the background ends with its client.
func TestProbeEndsWithTheClient(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		n.Hang(firstAddr, true)
		p.first.Close()
		for range 3 {
			p.ask(t, p.second)
		}
		time.Sleep(10 * time.Second)
		start := time.Now()
		p.ask(t, p.second)
		p.a.Close()
		synctest.Wait()
		if time.Since(start) != 0 {
			t.Error("time has passed")
		}
	}) // and no goroutine is left, or the bubble would panic
}

// sharedLimits shares limits between two clients, and records them.
type sharedLimits struct {
	told    []string
	limited map[string]func(time.Time)
}

func (r *sharedLimits) Limit(upstream, account, operation string, until time.Time) {
	r.told = append(r.told, fmt.Sprint(upstream, " ", account, " ", operation, " ", time.Until(until)))
}

func (r *sharedLimits) Subscribe(upstream, account, operation string, limited func(time.Time)) (stop func()) {
	name := upstream + " " + account + " " + operation
	r.limited[name] = limited
	return func() { delete(r.limited, name) }
}

// A 429 is shared under the account's fingerprint, without its credentials. A
// shared limit counts for at most as long as that of an answer.
func TestCooldownsAreShared(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.AddImage("repo", "latest", []byte("layer"))
		shared := &sharedLimits{limited: make(map[string]func(time.Time))}
		sharing := func(o *upstream.Options) { o.Cooldowns = shared }
		anonymous := newClient(t, r, on(n), sharing)
		known := newClient(t, r, on(n), sharing, withCredentials)
		var names []string
		for _, account := range []string{"", tokencache.Fingerprint("user", "hunter2")} {
			for _, operation := range []string{"blob", "list", "manifest"} {
				names = append(names, "registry.test:80 "+account+" "+operation)
			}
		}
		if got := slices.Sorted(maps.Keys(shared.limited)); !slices.Equal(got, names) {
			t.Fatalf("watched: %q, want %q", got, names)
		}

		r.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30")).Times(1)
		_, err := known.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrRateLimited)
		if want := []string{names[5] + " 30s"}; !slices.Equal(shared.told, want) {
			t.Errorf("told: %q, want %q", shared.told, want)
		}
		must[*oci.Manifest](t)(anonymous.Manifest(t.Context(), "repo", oci.ByTag("latest")))

		shared.limited[names[2]](time.Now().Add(100 * time.Hour))
		_, err = anonymous.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if e := wantError(t, err, upstream.ErrRateLimited); e.RetryAfter != 15*time.Minute {
			t.Errorf("it cools down for %v", e.RetryAfter)
		}
		if len(shared.told) != 1 {
			t.Errorf("a shared limit is shared again: %q", shared.told)
		}
		time.Sleep(15 * time.Minute)
		must[*oci.Manifest](t)(anonymous.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		anonymous.Close()
		known.Close()
		if len(shared.limited) != 0 {
			t.Errorf("still watched: %v", shared.limited)
		}
	})
}

// A registry that restarts is away for a moment, and then cools down for longer:
// downloads that have begun go on anyway.
func TestDownloadsSurviveARestart(t *testing.T) {
	for name, limited := range map[string]bool{"restart": false, "429": true} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, firstAddr))
				c := newClient(t, r, on(n))
				gate := upstreamtest.NewGate()
				r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1000, gate), upstreamtest.CutAfter(1001)).Times(10)
				dgst := r.AddBlob("repo", blob)
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() {
						b, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
						if got := readBody(t, b, err); !bytes.Equal(got, blob) {
							t.Errorf("got %d other bytes", len(got))
						}
					})
				}
				synctest.Wait()
				if limited {
					r.Fault(upstreamtest.Blobs, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "7")).Times(1)
					gate.Open()
				} else {
					r.Close()
					time.Sleep(5 * time.Second)
					r.Reopen()
				}
				start := time.Now()
				all.Wait()
				// The remaining 7 s, and the longest pause between two tries.
				if took := time.Since(start); took > 12*time.Second {
					t.Errorf("it took %v", took)
				}
				if got := n.Dials(firstAddr); got > 40 {
					t.Errorf("%d connects", got)
				}
			})
		})
	}
}

// A body does not wait for ever.
func TestDownloadsEndInALongCooldown(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, firstAddr))
		dgst := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1000, upstreamtest.NewGate()))
		b := must[oci.Blob](t)(alone(newClient(t, r, on(n))).Blob(t.Context(), "repo", dgst, 0, -1))
		defer b.Close()
		must[int](t)(io.ReadFull(b, make([]byte, 1000)))
		r.Close()
		start := time.Now()
		_, err := io.ReadAll(b)
		wantError(t, err, upstream.ErrUnavailable)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

// A connection that always breaks after a few bytes makes progress, and no storm
// of requests.
func TestTrickle(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		const cuts = 50
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, firstAddr))
		dgst := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Blobs, upstreamtest.CutEvery(blobSize/cuts))
		start := time.Now()
		b, err := alone(newClient(t, r, on(n))).Blob(t.Context(), "repo", dgst, 0, -1)
		if got := readBody(t, b, err); !bytes.Equal(got, blob) {
			t.Errorf("got %d other bytes", len(got))
		}
		if took := time.Since(start); took < (cuts-5)*time.Second || len(r.Requests()) != cuts {
			t.Errorf("%d requests within %v", len(r.Requests()), took)
		}
	})
}
