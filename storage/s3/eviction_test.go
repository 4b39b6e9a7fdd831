package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/storage/spool"
)

const root = "mirrors/weir/"

func blobKey(dgst digest.Digest) string {
	return root + "blobs/" + dgst.Algorithm().String() + "/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()
}

// blobs lists a bucket in parts.
func contents(t *testing.T, s *s3.Store) (found map[digest.Digest]int64, others map[string]int64, err error) {
	t.Helper()
	found, others = make(map[digest.Digest]int64), make(map[string]int64)
	for entry, failure := range s.Contents(t.Context(), func(key string, size int64) { others[key] = size }) {
		if failure != nil {
			return found, others, failure
		}
		found[entry.Digest] = entry.Size
	}
	return found, others, nil
}

// The parts of a listing are the whole bucket: each blob once, each other key once, and none of
// beside the prefix.
func TestContents(t *testing.T) {
	server := s3test.New(t)
	want := make(map[digest.Digest]int64)
	put := func(dgst digest.Digest, size int) {
		server.Put(blobKey(dgst), make([]byte, size))
		want[dgst] = int64(size)
	}
	for i := range 300 {
		put(digest.FromString(fmt.Sprint(i)), i%7)
	}
	put(digest.SHA512.FromString("rare"), 9)
	server.Put(root+"records/a/_tags/b", []byte("12345"))
	server.Put(root+"weir.json", []byte("{}"))
	server.Put(root+"eviction/plan", []byte("{}"))
	server.Put(root+"backup/1", nil)
	server.Put(root+"backup/2", nil)
	server.Put(root+"blobs/sha256/aa/photo.jpg", nil)
	server.Put(root+"blobs/sha256/aa/"+strings.Repeat("b", 64), nil) // the shard of another blob
	server.Put("mirrors/other/blobs/sha256/aa/"+strings.Repeat("a", 64), nil)
	found, others, err := contents(t, open(t, server, nil))
	if err != nil {
		t.Fatal(err)
	}
	for dgst, size := range want {
		if got, ok := found[dgst]; !ok || got != size {
			t.Errorf("%s has %d bytes (%v), want %d", dgst, got, ok, size)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d contents, want %d", len(found), len(want))
	}
	wantOthers := map[string]int64{
		root + "records/a/_tags/b": 5, root + "backup/": -1, root + "blobs/sha256/aa/photo.jpg": -1, root + "blobs/sha256/aa/" + strings.Repeat("b", 64): -1,
	}
	if fmt.Sprint(others) != fmt.Sprint(wantOthers) {
		t.Errorf("other keys are %v, want %v", others, wantOthers)
	}
}

// A listing of which any part fails is no listing, and nothing of it goes on.
func TestContentsFail(t *testing.T) {
	last := digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("f", 64))
	isLast := func(r *http.Request) bool { return strings.Contains(r.URL.Query().Get("prefix"), "sha256/ff/") }
	for name, answer := range map[string]http.HandlerFunc{
		"SlowDown":     func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, 503, "SlowDown") },
		"AccessDenied": func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, 403, "AccessDenied") },
		"a cut page": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "<ListBucketResult><Contents><Key>%s</Key>", blobKey(last))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			server.Put(blobKey(last), nil)
			store := open(t, server, nil)
			server.Intercept(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if isLast(r) {
						answer(w, r)
						return
					}
					next.ServeHTTP(w, r)
				})
			})
			if _, _, err := contents(t, store); err == nil {
				t.Error("the listing succeeded")
			}
		})
	}
	t.Run("the caller leaves", func(t *testing.T) {
		server := s3test.New(t)
		for i := range 2000 {
			server.Put(blobKey(digest.FromString(fmt.Sprint(i))), nil)
		}
		for range open(t, server, nil).Contents(t.Context(), func(string, int64) {}) {
			break
		}
	})
}

// A server may list keys in any order, several times, and ones that were not asked for.
func TestContentsOfStrangeServer(t *testing.T) {
	server := s3test.New(t)
	one, two := digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("a", 64)), digest.NewDigestFromEncoded(digest.SHA256, "aa"+strings.Repeat("b", 62))
	server.Intercept(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult>")
			for _, key := range []string{blobKey(two), blobKey(one), blobKey(two), "another/key", root + "blobs/sha256/aa/../../../x", strings.Repeat("k", 9000)} {
				fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>3</Size></Contents>", key)
			}
			fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>-7</Size></Contents></ListBucketResult>", blobKey(one))
		})
	})
	found, _, err := contents(t, open(t, server, nil))
	if err != nil || len(found) != 2 || found[one] != 3 || found[two] != 3 {
		t.Errorf("found %v, %v", found, err)
	}
}

// Contents are removed with one request, or one by one at a server that has no such request.
// Those that the server does not confirm are not gone.
func TestDeleteAll(t *testing.T) {
	isBatch := func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("delete") }
	fail := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, status, code) }
	}
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.SHA512.FromString("c")
	for name, test := range map[string]struct {
		batch    http.HandlerFunc
		gone     int
		reason   s3.Reason
		requests int
	}{
		"a server":                     {nil, 3, s3.Other, 1},
		"one without the request":      {fail(501, "NotImplemented"), 3, s3.Other, 4},
		"one that does not allow it":   {fail(405, "MethodNotAllowed"), 3, s3.Other, 4},
		"no permission":                {fail(403, "AccessDenied"), 0, s3.Denied, 1},
		"SlowDown":                     {fail(503, "SlowDown"), 0, s3.Throttled, 1},
		"500":                          {fail(500, "InternalError"), 0, s3.Failing, 1},
		"an answer that names nothing": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<DeleteResult/>") }, 0, s3.Other, 1},
		"an answer that is cut":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<DeleteResult><Del") }, 0, s3.Unreachable, 1},
		"an answer with other keys": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "<DeleteResult><Deleted><Key>x</Key></Deleted><Deleted><Key>%[1]s</Key></Deleted><Deleted><Key>%[1]s</Key></Deleted></DeleteResult>", blobKey(a))
		}, 1, s3.Other, 1},
		"an answer with a failure": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "<DeleteResult><Deleted><Key>%s</Key></Deleted><Error><Key>%s</Key><Code>AccessDenied</Code></Error></DeleteResult>", blobKey(a), blobKey(b))
		}, 1, s3.Denied, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			for _, dgst := range []digest.Digest{a, b, c} {
				server.Put(blobKey(dgst), []byte("content"))
			}
			server.Put("foreign", nil)
			if test.batch != nil {
				server.Intercept(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if isBatch(r) {
							test.batch(w, r)
							return
						}
						next.ServeHTTP(w, r)
					})
				})
			}
			gone, err := open(t, server, nil).DeleteAll(t.Context(), []digest.Digest{a, b, c})
			if len(gone) != test.gone || s3.ReasonOf(err) != test.reason || (err != nil) != (test.reason != s3.Other) {
				t.Errorf("gone %v, %v", gone, err)
			}
			if got := server.Requests(); len(got) != test.requests {
				t.Errorf("requests %q, want %d", got, test.requests)
			}
			if _, ok := server.Get("foreign"); !ok {
				t.Error("a foreign key was removed")
			}
			if test.gone == 3 && len(server.Keys(root)) > 0 {
				t.Errorf("left %v", server.Keys(root))
			}
		})
	}
}

// One mirror has the lease. Another one gets it once it is given back, or has not been renewed
// for its life.
func TestLease(t *testing.T) {
	const life = 300 * time.Millisecond
	for name, intercept := range map[string]func(http.Handler) http.Handler{
		"a server": nil,
		"one that refuses conditions": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Match") != "" {
					s3test.Fail(w, 501, "NotImplemented")
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		"one that ignores conditions": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("If-None-Match")
				r.Header.Del("If-Match")
				next.ServeHTTP(w, r)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			server.Intercept(intercept)
			one, two := open(t, server, nil).NewLease(), open(t, server, nil).NewLease()
			hold := func(l *s3.Lease) bool {
				held, err := l.Hold(t.Context(), life)
				if err != nil {
					t.Fatal(err)
				}
				return held
			}
			if !hold(one) || hold(two) || !hold(one) {
				t.Fatal("the first mirror does not have the lease")
			}
			// It is renewed, so its age does not count.
			for begun := time.Now(); time.Since(begun) < 2*life; time.Sleep(life / 10) {
				if !hold(one) || hold(two) {
					t.Fatal("the lease went to the other mirror")
				}
			}
			one.Release(t.Context())
			if !hold(two) || hold(one) {
				t.Fatal("the lease was not given back")
			}
			// The second one is dead.
			for begun := time.Now(); !hold(one); time.Sleep(life / 10) {
				if time.Since(begun) > 10*time.Second {
					t.Fatal("the lease does not end")
				}
			}
			if hold(two) {
				t.Error("both have the lease")
			}
			two.Release(t.Context()) // it is not its own
			if !hold(one) {
				t.Error("the lease was given back by another mirror")
			}
		})
	}
}

// A write whose answer is lost, and a lease of a stranger, end nothing for good.
func TestLeaseFaults(t *testing.T) {
	server := s3test.New(t)
	l := open(t, server, nil).NewLease()
	if held, err := l.Hold(t.Context(), time.Minute); !held || err != nil {
		t.Fatal(held, err)
	}
	server.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				next.ServeHTTP(discard{}, r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	if held, err := l.Hold(t.Context(), time.Minute); held || err == nil {
		t.Error(held, err)
	}
	server.Intercept(nil)
	if held, err := l.Hold(t.Context(), time.Minute); !held || err != nil {
		t.Errorf("after a lost answer: %v, %v", held, err)
	}
	for _, document := range []string{"", "garbage", strings.Repeat("x", 1<<20)} {
		server.Put(root+"eviction/lease", []byte(document))
		for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			held, err := l.Hold(t.Context(), 30*time.Millisecond)
			if held {
				break
			}
			if time.Since(begun) > 10*time.Second {
				t.Fatalf("a lease of %d bytes of a stranger does not end: %v", len(document), err)
			}
		}
	}
}

// discard is an answer without a reader.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// Notes are read whole or not at all.
func TestNotes(t *testing.T) {
	server := s3test.New(t)
	notes := open(t, server, nil).Notes()
	if _, _, err := notes.Read(t.Context(), "plan", 10); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a missing note: %v", err)
	}
	if err := errors.Join(notes.Write(t.Context(), "plan", []byte("0123456789")), notes.Write(t.Context(), "uses/A", []byte("a"))); err != nil {
		t.Fatal(err)
	}
	document, written, err := notes.Read(t.Context(), "plan", 10)
	if string(document) != "0123456789" || time.Since(written).Abs() > time.Minute || err != nil {
		t.Errorf("%q, %v, %v", document, written, err)
	}
	if _, _, err := notes.Read(t.Context(), "plan", 9); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("a note that is too long: %v", err)
	}
	server.Put(root+"eviction/uses/a stranger's", nil)
	server.Put(root+"eviction/uses/A/B", nil)
	var names []string
	for note, err := range notes.List(t.Context(), "uses") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, note.Key)
	}
	if !slices.Equal(names, []string{"uses/A"}) {
		t.Errorf("the notes are %q", names)
	}
	if err := errors.Join(notes.Remove(t.Context(), "uses/A"), notes.Remove(t.Context(), "uses/A")); err != nil {
		t.Error(err)
	}
}

// eviction is a plan that a test changes.
type eviction struct {
	leaves, stays bool
	used          int
}

func (e *eviction) Used(digest.Digest)                        { e.used++ }
func (e *eviction) Leaves(digest.Digest) bool                 { return e.leaves }
func (e *eviction) Stays(context.Context, digest.Digest) bool { return e.stays }

// A blob that leaves is neither promised to clients, nor uploaded, nor believed to be there
// later. It can be read as long as it is there.
func TestLeaving(t *testing.T) {
	server := s3test.New(t)
	store, e := open(t, server, nil), &eviction{stays: true}
	store.Evicts(e)
	text := "content"
	info := storage.Info{Digest: digest.FromString(text), Size: int64(len(text))}
	if err := store.Upload(t.Context(), info, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if store.Link(t.Context(), info.Digest, info.Size) == nil {
		t.Fatal("the content is not promised")
	}
	if e.used == 0 {
		t.Error("an upload and a redirect are no uses")
	}
	for _, state := range []eviction{{leaves: true}, {}} { // it leaves, or that is not known
		*e = state
		if store.Link(t.Context(), info.Digest, info.Size) != nil {
			t.Errorf("the content is promised: %+v", state)
		}
	}
	*e = eviction{leaves: true}
	store.Forget(info.Digest)
	if _, err := store.Lacks(t.Context(), info); !errors.Is(err, spool.ErrBusy) {
		t.Errorf("Lacks: %v", err)
	}
	server.Requests()
	if err := store.Upload(t.Context(), info, strings.NewReader(text)); !errors.Is(err, spool.ErrBusy) || len(server.Requests()) > 0 {
		t.Errorf("Upload: %v", err)
	}
	before := e.used
	body, _, err := store.OpenAt(t.Context(), info.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := io.ReadAll(body); string(read) != text || err != nil || e.used == before {
		t.Errorf("read %q, %v; %d uses", read, err, e.used-before)
	}
	body.Close()
	// The evicting mirror removes it. Its presence in between proves nothing.
	server.Delete(blobKey(info.Digest))
	*e = eviction{stays: true}
	if store.Link(t.Context(), info.Digest, info.Size) != nil {
		t.Error("a content that is gone is promised")
	}
	if lacks, err := store.Lacks(t.Context(), info); !lacks || err != nil {
		t.Errorf("Lacks: %v, %v", lacks, err)
	}
}
