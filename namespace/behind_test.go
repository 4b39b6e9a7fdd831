package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func tagSWR(d time.Duration) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.TagSWR = d }
}

// ways are GET and HEAD of a tag.
var ways = map[string]func(*testing.T, *namespace.Namespace, string, string) answer{"GET": get, "HEAD": head}

// A tag is answered at once, and checked behind the answer, from the end of its tag_ttl to
// the end of its tag_swr, and at no other time. The next answer is the finding.
func TestCheckBehind(t *testing.T) {
	ttl, swr := tagTTL(time.Hour), tagSWR(time.Minute)
	later := []string{"HEAD tag 200"} // a check
	for name, c := range map[string]struct {
		change  []func(*namespace.Spec)
		age     time.Duration
		overdue time.Duration // of the answer; 0: it is none of a tag that is checked behind it
		first   namespace.CacheStatus
		next    namespace.CacheStatus
		checks  []string
	}{
		"within tag_ttl":                {[]func(*namespace.Spec){ttl, swr}, time.Hour - 1, 0, namespace.Hit, namespace.Hit, nil},
		"at the end of tag_ttl":         {[]func(*namespace.Spec){ttl, swr}, time.Hour, 1, namespace.Hit, namespace.Hit, later},
		"within tag_swr":                {[]func(*namespace.Spec){ttl, swr}, time.Hour + 30*time.Second, 30 * time.Second, namespace.Hit, namespace.Hit, later},
		"before the end of tag_swr":     {[]func(*namespace.Spec){ttl, swr}, time.Hour + time.Minute - 1, time.Minute - 1, namespace.Hit, namespace.Hit, later},
		"at the end of tag_swr":         {[]func(*namespace.Spec){ttl, swr}, time.Hour + time.Minute, 0, namespace.Revalidated, namespace.Hit, later},
		"long after tag_swr":            {[]func(*namespace.Spec){ttl, swr}, 100 * time.Hour, 0, namespace.Revalidated, namespace.Hit, later},
		"without tag_ttl":               {[]func(*namespace.Spec){swr}, time.Second, time.Second, namespace.Hit, namespace.Hit, append(later, later...)},
		"without tag_ttl, too late":     {[]func(*namespace.Spec){swr}, time.Minute, 0, namespace.Revalidated, namespace.Hit, append(later, later...)},
		"without tag_swr":               {[]func(*namespace.Spec){ttl}, time.Hour, 0, namespace.Revalidated, namespace.Hit, later},
		"immutable":                     {[]func(*namespace.Spec){ttl, swr, immutable}, time.Hour, 0, namespace.Hit, namespace.Hit, nil},
		"offline":                       {[]func(*namespace.Spec){ttl, swr, offline}, time.Hour, 0, namespace.Hit, namespace.Hit, nil},
		"where the upstream decides":    {[]func(*namespace.Spec){ttl, swr, func(s *namespace.Spec) { s.OnBehalf = true }}, time.Hour, 0, namespace.Revalidated, namespace.Hit, later},
		"with a limit on stale":         {[]func(*namespace.Spec){ttl, swr, maxStale(time.Minute)}, time.Hour, 1, namespace.Hit, namespace.Hit, later},
		"no stale answers":              {[]func(*namespace.Spec){ttl, swr, staleOn()}, time.Hour, 1, namespace.Hit, namespace.Hit, later},
		"right that is confirmed":       {[]func(*namespace.Spec){ttl, swr, rechecking}, time.Hour, 1, namespace.Hit, namespace.Hit, later},
		"right that is to be confirmed": {[]func(*namespace.Spec){tagTTL(24 * time.Hour), swr, rechecking}, 24 * time.Hour, 0, namespace.Revalidated, namespace.Hit, later},
	} {
		for way, ask := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r, c.change...)
					image := r.AddImage("app", "tag", []byte("a layer"))
					filled := m.namespace("up.example", r, func(s *namespace.Spec) { // the same block before a reload
						for _, f := range c.change {
							f(s)
						}
						s.Offline = false
					})
					get(t, filled, "app", "tag")
					r.ResetRequests()
					time.Sleep(c.age)
					checked := time.Now().Add(-c.age)
					got := ask(t, n, "app", "tag")
					wantManifest(t, got, c.first, image)
					if got.overdue != c.overdue {
						t.Errorf("overdue for %v, want %v", got.overdue, c.overdue)
					}
					if c.first == namespace.Hit && !got.checked.Equal(checked) {
						t.Errorf("checked at %v, want %v", got.checked, checked)
					}
					synctest.Wait()
					wantManifest(t, ask(t, n, "app", "tag"), c.next, image)
					synctest.Wait()
					var want []string
					for range c.checks {
						want = append(want, manifestRequest("HEAD", "app", "tag", 200))
					}
					wantRequests(t, r, want...)
				})
			})
		}
	}
}

// The first request after a tag has moved gets the old manifest, and the next one the new
// one, by GET and HEAD, and by its digest.
func TestCheckBehindFindsMove(t *testing.T) {
	for way, ask := range ways {
		t.Run(way, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute))
				old := r.AddImage("app", "tag", []byte("old"))
				get(t, n, "app", "tag")
				for i := range 3 {
					moved := r.AddImage("app", "tag", fmt.Append(nil, "new", i))
					time.Sleep(time.Hour)
					r.ResetRequests()
					wantManifest(t, ask(t, n, "app", "tag"), namespace.Hit, old)
					synctest.Wait()
					wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200), manifestRequest("GET", "app", moved.Digest, 200))
					wantManifest(t, ask(t, n, "app", "tag"), namespace.Hit, moved)
					wantManifest(t, get(t, n, "app", moved.Digest.String()), namespace.Hit, moved)
					wantRequests(t, r)
					old = moved
				}
				m.wantChecks(t, 0, 3, 0)
			})
		})
	}
}

// gather returns the metrics of a further table with the block up.example, as after a reload.
func (m *mirror) gather(t *testing.T) (*prometheus.Registry, []*dto.MetricFamily) {
	t.Helper()
	table, err := namespace.NewTable(m.cache, []namespace.Spec{{Key: "up.example"}})
	if err != nil {
		t.Fatal(err)
	}
	tables := new(namespace.Current)
	tables.Store(table)
	registry := prometheus.NewRegistry()
	namespace.RegisterMetrics(registry, tables)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return registry, families
}

// wantChecks compares the checks behind answers that the block up.example has counted:
// confirmed, moved and failed.
func (m *mirror) wantChecks(t *testing.T, want ...int) {
	t.Helper()
	registry, families := m.gather(t)
	got := map[string]int{}
	for _, family := range families {
		for _, sample := range family.GetMetric() {
			if family.GetName() == "weir_tag_checks_behind_total" {
				got[sample.GetLabel()[1].GetValue()] = int(sample.GetCounter().GetValue())
			}
		}
	}
	if got["confirmed"] != want[0] || got["moved"] != want[1] || got["failed"] != want[2] || len(got) != 3 {
		t.Errorf("counted %v, want %v", got, want)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// The failure of a check is the next answer: a stale one where the class is served, the
// failure itself otherwise. When the upstream is back, so is the tag.
func TestFailedCheckBehind(t *testing.T) {
	for class, effect := range map[upstream.Class][]upstreamtest.Effect{
		upstream.ClassNotFound:    {upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)},
		upstream.ClassDenied:      {upstreamtest.Status(403, "")},
		upstream.ClassUnavailable: {upstreamtest.Status(500, ""), upstreamtest.Status(503, ""), upstreamtest.Drop(), upstreamtest.Status(404, "<html>")},
		upstream.ClassRateLimited: {upstreamtest.Status(429, "")},
	} {
		for i, effect := range effect {
			for served := range failures {
				for way, ask := range ways {
					t.Run(fmt.Sprint(class, i, " where ", served, " is served, ", way), func(t *testing.T) {
						bubble(t, func(t *testing.T, m *mirror) {
							r := m.registry("up.example")
							n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Hour), negativeTTL(time.Minute), staleOn(served))
							image := r.AddImage("app", "tag", []byte("a layer"))
							get(t, n, "app", "tag")
							time.Sleep(time.Hour)
							fault := r.Fault(upstreamtest.Manifests, effect)
							wantManifest(t, ask(t, n, "app", "tag"), namespace.Hit, image)
							time.Sleep(time.Second) // the retries
							asked := fault.Hits()
							for range 3 {
								got := ask(t, n, "app", "tag")
								if class == served {
									wantManifest(t, got, namespace.Stale, image)
								} else if upstream.ClassOf(upstream.Doubt(got.err)) != class {
									t.Errorf("got %+v, want a failure of class %v", got, class)
								}
								time.Sleep(time.Second)
							}
							// A tag that is gone was forgotten by the check, and its "not found" remembered.
							if class == upstream.ClassNotFound && class != served && fault.Hits() != asked {
								t.Errorf("%d requests after the check", fault.Hits()-asked)
							}
							r.ClearFaults()
							time.Sleep(2 * time.Minute) // the cooldown of a limit, and a remembered "not found"
							ask(t, n, "app", "tag")
							synctest.Wait()
							wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
						})
					})
				}
			}
		}
	}
}

// max_stale keeps its meaning: once it is known that the upstream is away, a tag that is too
// old is not served, whatever tag_swr says.
func TestCheckBehindAndMaxStale(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Minute), tagSWR(time.Hour), maxStale(30*time.Minute), staleOn(upstream.ClassUnavailable))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
		time.Sleep(10 * time.Minute)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
		synctest.Wait()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		time.Sleep(21 * time.Minute)
		for range 2 {
			if got := get(t, n, "app", "tag"); !errors.Is(got.err, upstream.ErrUnavailable) {
				t.Errorf("beyond max_stale: %+v", got)
			}
		}
		r.ClearFaults()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
		m.wantChecks(t, 0, 0, 2)
	})
}

// All clients of a tag cause one check, also those that come while it is under way, and none
// of them waits for it. It is the job of no client: all of them may leave.
func TestCheckBehindHerd(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		time.Sleep(time.Hour)
		r.ResetRequests()
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		began := time.Now()
		for range 3 {
			together(upstreamtest.NewGate(), 20, func(i int) {
				ask := get
				if i%2 == 0 {
					ask = head
				}
				wantManifest(t, ask(t, n, "app", "tag"), namespace.Hit, image)
			})
		}
		left, leave := context.WithCancel(t.Context())
		leave()
		wantManifest(t, read(t)(n.Manifest(left, "app", reference(t, "tag"))), namespace.Hit, image)
		if time.Since(began) != 0 {
			t.Error("a client waited for the check")
		}
		time.Sleep(time.Second) // less than a connection may be silent
		gate.Open()
		synctest.Wait()
		wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
		wantRequests(t, r)
	})
}

// A check that had to wait for its turn is not made if another request has made it meanwhile.
func TestCheckBehindMadeByAnother(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Hour} {
		t.Run(ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(t, 1, nil)
				r := m.registry("up.example")
				n := m.namespace("up.example", r, tagTTL(ttl), tagSWR(time.Minute))
				image := r.AddImage("app", "tag", []byte("a layer"))
				get(t, n, "app", "tag")
				end := make(chan struct{})
				m.checks.Submit(named("running"), func(context.Context) error { <-end; return nil })
				time.Sleep(ttl)
				r.ResetRequests()
				wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image) // its check waits
				wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
				synctest.Wait()
				wantRequests(t, r)
				time.Sleep(time.Minute)
				wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
				wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
				close(end)
				synctest.Wait()
				wantRequests(t, r)
			})
		})
	}
}

// If the pool has no place for a check, the tag is checked before the answer.
func TestCheckBehindWithoutPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, 1, nil)
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		end := make(chan struct{})
		for i := 0; m.checks.Submit(named(fmt.Sprint("full", i)), func(context.Context) error { <-end; return nil }); i++ {
		}
		time.Sleep(time.Hour)
		r.ResetRequests()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
		wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
		close(end)
	})
}

// One check serves all replicas.
func TestReplicasCheckBehindOnce(t *testing.T) {
	shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
		old := r.AddImage("app", "v1", []byte("a layer"))
		get(t, one, "app", "v1")
		get(t, two, "app", "v1")
		moved := r.AddImage("app", "v1", []byte("another layer"))
		time.Sleep(time.Minute)
		r.ResetRequests()
		wantManifest(t, get(t, one, "app", "v1"), namespace.Hit, old)
		synctest.Wait()
		wantManifest(t, get(t, two, "app", "v1"), namespace.Hit, old)
		synctest.Wait()
		wantManifest(t, get(t, one, "app", "v1"), namespace.Hit, moved)
		wantManifest(t, get(t, two, "app", "v1"), namespace.Hit, moved)
		wantRequests(t, r,
			manifestRequest("HEAD", "app", "v1", 200),
			manifestRequest("GET", "app", moved.Digest, 200),
			manifestRequest("GET", "app", moved.Digest, 200)) // each proves its right
	}, tagTTL(time.Minute), tagSWR(time.Minute))
}

// A manifest that cannot be stored is no answer of the cache: the next request is one for
// the upstream.
func TestCheckBehindWithoutStore(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute))
		old := r.AddImage("app", "tag", []byte("old"))
		get(t, n, "app", "tag")
		moved := r.AddImage("app", "tag", []byte("new"))
		time.Sleep(time.Hour)
		m.store.FailCommit(errors.New("disk full"))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, old)
		synctest.Wait()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Passed, moved)
		m.store.FailCommit(nil)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Moved, moved)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, moved)
	})
}

// Some requests wait for the check: a warming, which is there to find a move, a request that
// came through another mirror and may be in a loop, and one of a client that does not accept
// the cached manifest. A time in the future is none of a check.
func TestCheckBefore(t *testing.T) {
	const mirrorID = via.ID("another")
	leads := func(s *namespace.Spec) { s.MayLeadToMirror = func() bool { return true } }
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute), leads)
		want := r.AddImage("app", "tag", []byte("old"))
		get(t, n, "app", "tag")
		for name, ask := range map[string]func() (answer, error){
			"a warming": func() (answer, error) {
				_, source := n.Warm("app")
				got, err := source.Manifest(t.Context(), oci.ByTag("tag"))
				return answer{Body: string(got.Body)}, err
			},
			"through another mirror": func() (answer, error) {
				got := read(t)(n.Manifest(via.With(t.Context(), []via.ID{mirrorID}), "app", reference(t, "tag")))
				return got, got.err
			},
			"a clock that ran ahead": func() (answer, error) {
				repo := storage.RepoID{Namespace: "up.example", Name: "app"}
				record, err := m.catalog.Tag(t.Context(), repo, "tag")
				if err != nil {
					t.Fatal(err)
				}
				record.Checked = time.Now().Add(time.Minute)
				if err := m.catalog.PutTag(t.Context(), repo, "tag", record); err != nil {
					t.Fatal(err)
				}
				got := get(t, n, "app", "tag")
				return got, got.err
			},
		} {
			time.Sleep(time.Hour)
			want = r.AddImage("app", "tag", []byte("new of "+name))
			got, err := ask()
			if err != nil || want.Digest.Algorithm().FromString(got.Body) != want.Digest {
				t.Errorf("%s: got %q, %v", name, got.Body, err)
			}
			wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, want)
		}
	})
}

// Tags of one name in different blocks and repositories are checked each by its own.
func TestChecksBehindApart(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r, other := m.registry("up.example"), m.registry("other.example")
		change := []func(*namespace.Spec){tagTTL(time.Hour), tagSWR(time.Minute)}
		var want []ocispec.Descriptor
		var all []func() answer
		for _, b := range []struct {
			key, repo string
			r         *upstreamtest.Registry
		}{{"a", "b/app", r}, {"a/b", "app", other}, {"a", "app", r}} {
			b.r.AddImage(b.repo, "tag", []byte("old"))
			n := m.namespace(b.key, b.r, change...)
			get(t, n, b.repo, "tag")
			want = append(want, b.r.AddImage(b.repo, "tag", []byte("new of "+b.key+b.repo)))
			all = append(all, func() answer { return get(t, n, b.repo, "tag") })
		}
		time.Sleep(time.Hour)
		for _, ask := range all {
			if got := ask(); got.Cache != namespace.Hit || got.overdue == 0 {
				t.Errorf("%+v", got)
			}
		}
		synctest.Wait()
		for i, ask := range all {
			wantManifest(t, ask(), namespace.Hit, want[i])
		}
	})
}

// At the end of the mirror a check that hangs delays nothing: its pool ends first, and its
// lookup has no caller then.
func TestEndDuringCheckBehind(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour), tagSWR(time.Minute))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		time.Sleep(time.Hour)
		gate := upstreamtest.NewGate()
		held := r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)
		synctest.Wait()
		if held.Hits() != 1 {
			t.Fatalf("%d checks hang, want 1", held.Hits())
		}
		began := time.Now()
		m.checks.Close()
		if err := m.cache.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the end took %v", took)
		}
		m.wantChecks(t, 0, 0, 0)
	})
}
