package evict_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
)

const interval = 5 * time.Minute

var errDenied = errors.New("access denied")

// shared is a store with notes and a lease, all in memory, that several mirrors share.
type shared struct {
	mu       sync.Mutex
	contents map[digest.Digest]storage.Entry
	foreign  map[string]int64 // other keys; -1: of another program
	notes    map[string]note
	holder   any
	until    time.Time
	deleted  []digest.Digest // in the order of their removal
	batches  int
	fault    func(operation, name string) error // of calls; may be nil
	log      testutil.LogBuffer
}

type note struct {
	document []byte
	written  time.Time
}

func newShared() *shared {
	return &shared{contents: make(map[digest.Digest]storage.Entry), foreign: make(map[string]int64), notes: make(map[string]note)}
}

func (s *shared) fails(operation, name string) error {
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(operation, name)
}

func (s *shared) failIf(fault func(operation, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// put stores a blob of a size now.
func (s *shared) put(name string, size int64) digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	dgst := digest.FromString(name)
	s.contents[dgst] = storage.Entry{Info: storage.Info{Digest: dgst, Size: size}, Used: time.Now()}
	return dgst
}

func (s *shared) has(dgst digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.contents[dgst]
	return ok
}

func (s *shared) removed() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.deleted)
}

func (s *shared) Stat(_ context.Context, dgst digest.Digest) (storage.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, ok := s.contents[dgst]
	if !ok {
		return storage.Info{}, storage.ErrNotExist
	}
	return entry.Info, nil
}

func (s *shared) Contents(_ context.Context, other func(string, int64)) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		s.mu.Lock()
		contents, foreign := maps.Clone(s.contents), maps.Clone(s.foreign)
		s.mu.Unlock()
		for key, size := range foreign {
			other(key, size)
		}
		for _, entry := range contents {
			if !yield(entry, nil) {
				return
			}
		}
		if err := s.fails("list", ""); err != nil {
			yield(storage.Entry{}, err)
		}
	}
}

func (s *shared) DeleteAll(_ context.Context, contents []digest.Digest) (gone []digest.Digest, err error) {
	if err := s.fails("delete", ""); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	for _, dgst := range contents {
		delete(s.contents, dgst)
		s.deleted = append(s.deleted, dgst)
	}
	return contents, nil
}

func (s *shared) Read(_ context.Context, name string, limit int64) ([]byte, time.Time, error) {
	if err := s.fails("read", name); err != nil {
		return nil, time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.notes[name]
	if !ok {
		return nil, time.Time{}, storage.ErrNotExist
	}
	if int64(len(n.document)) > limit {
		return nil, time.Time{}, storage.ErrTooLarge
	}
	return n.document, n.written, nil
}

func (s *shared) Write(_ context.Context, name string, document []byte) error {
	if err := s.fails("write", name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes[name] = note{document, time.Now()}
	return nil
}

func (s *shared) Remove(_ context.Context, name string) error {
	if err := s.fails("remove", name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.notes, name)
	return nil
}

func (s *shared) List(_ context.Context, folder string) iter.Seq2[storage.RecordEntry, error] {
	return func(yield func(storage.RecordEntry, error) bool) {
		s.mu.Lock()
		notes := maps.Clone(s.notes)
		s.mu.Unlock()
		for name, n := range notes {
			if strings.HasPrefix(name, folder+"/") && !yield(storage.RecordEntry{Key: name, Used: n.written}, nil) {
				return
			}
		}
	}
}

// uses returns the names of the notes of uses.
func (s *shared) uses() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.notes {
		if strings.HasPrefix(name, "uses/") {
			names = append(names, name)
		}
	}
	return names
}

// lease is the lease of one mirror.
type lease struct{ *shared }

func (l *lease) Hold(_ context.Context, life time.Duration) (bool, error) {
	if err := l.fails("hold", ""); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder != nil && l.holder != any(l) && time.Now().Before(l.until) {
		return false, nil
	}
	l.holder, l.until = l, time.Now().Add(life)
	return true, nil
}

func (l *lease) Release(context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == any(l) {
		l.holder = nil
	}
}

// evictor starts the eviction of one mirror. change may be nil.
func (s *shared) evictor(t *testing.T, change func(*evict.SharedOptions)) *evict.Shared {
	t.Helper()
	opts := evict.SharedOptions{
		Store: s, Notes: s, Lease: &lease{s}, Interval: interval,
		Refused: func(err error) bool { return errors.Is(err, errDenied) }, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	}
	if change != nil {
		change(&opts)
	}
	e := evict.NewShared(opts)
	t.Cleanup(e.Close)
	return e
}

func (s *shared) mirror(t *testing.T) *evict.Uses {
	t.Helper()
	u := evict.NewUses(evict.UsesOptions{Notes: s, Interval: interval, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(u.Close)
	return u
}

// pass lets a time pass, and all work end that is due then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// The content that no mirror has used for the longest time goes first, whichever mirror used
// the rest, and no more than has to.
func TestSharedOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		var all []digest.Digest
		for i := range 10 {
			all = append(all, s.put(fmt.Sprint(i), 10))
			time.Sleep(time.Hour)
		}
		one, two := s.mirror(t), s.mirror(t)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxBytes = 81 })
		pass(time.Second)
		one.Used(all[0])
		two.Used(all[1])
		two.Used(all[3])
		pass(time.Hour)
		// 81 bytes less a twentieth, so three have to go.
		if got, want := s.removed(), []digest.Digest{all[2], all[4], all[5]}; !equal(got, want) {
			t.Errorf("removed %v, want %v", got, want)
		}
		pass(24 * time.Hour)
		if got := len(s.removed()); got != 3 {
			t.Errorf("%d contents were removed in the end, want 3", got)
		}
	})
}

// equal reports whether two lists have the same blobs.
func equal(a, b []digest.Digest) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Content goes that no mirror has used for a time, and no other.
func TestSharedUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		old, used := s.put("old", 1), s.put("used", 1)
		u := s.mirror(t)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = 24 * time.Hour })
		for range 40 {
			pass(time.Hour)
			u.Used(used)
		}
		if s.has(old) || !s.has(used) {
			t.Errorf("removed %v, want %s", s.removed(), old)
		}
	})
}

// blind is a mirror's view of the notes, that it cannot read any more.
type blind struct {
	*shared
	closed atomic.Bool
}

func (b *blind) Read(ctx context.Context, name string, limit int64) ([]byte, time.Time, error) {
	if b.closed.Load() {
		return nil, time.Time{}, errors.New("away")
	}
	return b.shared.Read(ctx, name, limit)
}

// No content is removed that a mirror may have promised to a client.
func TestSharedPromises(t *testing.T) {
	const presigned = 30 * time.Minute
	for name, stalls := range map[string]bool{"a mirror that reads the plan": false, "a mirror that cannot": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShared()
				dgst, notes := s.put("content", 1), &blind{shared: s}
				// It tells no use, so that only its look at the plan can keep the promise.
				u := evict.NewUses(evict.UsesOptions{Notes: notes, Interval: interval})
				defer u.Close()
				synctest.Wait()
				if !u.Stays(t.Context(), dgst) {
					t.Fatal("without an evictor nothing leaves")
				}
				s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused, o.Presigned = time.Hour, presigned })
				began := time.Now()
				last := began
				for s.has(dgst) && time.Since(began) < 48*time.Hour {
					if u.Stays(t.Context(), dgst) { // a client gets a URL
						last = time.Now()
					}
					// From the moment at which the content begins to leave.
					if s.leaves(dgst) {
						notes.closed.Store(stalls)
					}
					time.Sleep(7 * time.Second)
				}
				switch kept := time.Since(last); {
				case s.has(dgst):
					t.Fatal("the content was not removed within two days")
				case last.Equal(began):
					t.Error("the content was never promised")
				case kept < presigned:
					t.Errorf("the content was removed %s after it was promised, want at least %s", kept, presigned)
				}
			})
		})
	}
}

// leaves reports whether a blob is in the plan.
func (s *shared) leaves(dgst digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(string(s.notes["plan"].document), string(dgst))
}

// A blob stays whose use is told while it leaves.
func TestSharedObjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		dgst, other := s.put("content", 1), s.put("other", 1)
		u := s.mirror(t)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = time.Hour })
		for !s.leaves(dgst) {
			pass(time.Second)
		}
		for !u.Leaves(dgst) {
			pass(time.Second)
		}
		u.Used(dgst)
		pass(50 * time.Minute)
		if !s.has(dgst) || s.has(other) {
			t.Errorf("removed %v, want %s", s.removed(), other)
		}
		if u.Leaves(dgst) {
			t.Error("the content still leaves")
		}
		if u.Stays(t.Context(), other) && s.leaves(other) {
			t.Error("a content that leaves was promised")
		}
	})
}

// If the mirror that evicts dies, another one evicts, in the order that all mirrors told before.
// Nothing is lost, and each content is removed once.
func TestSharedSuccessor(t *testing.T) {
	for name, dies := range map[string]bool{"it dies": true, "it ends": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShared()
				var all []digest.Digest
				for i := range 10 {
					all = append(all, s.put(fmt.Sprint(i), 10))
					time.Sleep(time.Hour)
				}
				var dead atomic.Bool
				u := s.mirror(t)
				first := s.evictor(t, func(o *evict.SharedOptions) {
					o.MaxBytes = 1000
					o.Notes, o.Lease, o.Store = &mortal{shared: s, dead: &dead}, &mortalLease{lease{s}, &dead}, &mortal{shared: s, dead: &dead}
				})
				synctest.Wait()
				u.Used(all[0])
				pass(2 * time.Hour) // the use is in the order now, and the note of it is gone
				if got := s.uses(); len(got) != 0 {
					t.Errorf("notes of uses are left: %v", got)
				}
				u.Used(all[1])
				pass(2 * interval) // the use is in a note
				second := s.evictor(t, func(o *evict.SharedOptions) { o.MaxBytes = 85 })
				pass(time.Minute)
				if dies {
					dead.Store(true)
				} else {
					first.Close()
				}
				pass(2 * time.Hour)
				if got, want := s.removed(), all[2:4]; !equal(got, want) {
					t.Errorf("removed %v, want %v", got, want)
				}
				second.Close()
				first.Close()
			})
		})
	}
}

// mortal is the access of a mirror that may die.
type mortal struct {
	*shared
	dead *atomic.Bool
}

var errDead = errors.New("the process is dead")

func (m *mortal) Write(ctx context.Context, name string, document []byte) error {
	if m.dead.Load() {
		return errDead
	}
	return m.shared.Write(ctx, name, document)
}

func (m *mortal) Remove(ctx context.Context, name string) error {
	if m.dead.Load() {
		return errDead
	}
	return m.shared.Remove(ctx, name)
}

func (m *mortal) DeleteAll(ctx context.Context, contents []digest.Digest) ([]digest.Digest, error) {
	if m.dead.Load() {
		return nil, errDead
	}
	return m.shared.DeleteAll(ctx, contents)
}

type mortalLease struct {
	lease
	dead *atomic.Bool
}

func (l *mortalLease) Hold(ctx context.Context, life time.Duration) (bool, error) {
	if l.dead.Load() {
		return false, errDead
	}
	return l.lease.Hold(ctx, life)
}

func (l *mortalLease) Release(ctx context.Context) {
	if !l.dead.Load() {
		l.lease.Release(ctx)
	}
}

// A mirror that loses the lease removes nothing any more, even if it does not hear of it.
func TestSharedLeaseIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		dgst := s.put("content", 1)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = 10 * time.Hour })
		pass(time.Hour)
		s.failIf(func(operation, _ string) error {
			if operation == "hold" {
				return errors.New("away")
			}
			return nil
		})
		pass(48 * time.Hour)
		if !s.has(dgst) {
			t.Error("a content was removed without the lease")
		}
		s.failIf(nil)
		pass(time.Hour)
		if s.has(dgst) {
			t.Error("the content was not removed once the lease was back")
		}
	})
}

// A plan that another mirror, or a stranger, has written in between lets no content be removed
// of which the mirrors do not know that it leaves.
func TestSharedPlanIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		dgst := s.put("content", 1)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = time.Hour })
		for !s.leaves(dgst) {
			pass(time.Second)
		}
		for range 100 { // just before each pass
			if err := s.Write(t.Context(), "plan", []byte(`{"format":1,"evictor":"stranger"}`)); err != nil {
				t.Fatal(err)
			}
			pass(interval)
		}
		if !s.has(dgst) {
			t.Error("a content was removed of which the mirrors did not know")
		}
		pass(time.Hour)
		if s.has(dgst) {
			t.Error("the content was not removed in the end")
		}
	})
}

// Failures stop the eviction for a time, with one line of the log, and nothing is removed by
// mistake. A permission that is missing is asked for once an hour.
func TestSharedFaults(t *testing.T) {
	away := errors.New("503 SlowDown")
	for name, fault := range map[string]struct {
		operation, name string
		err             error
		again           int // calls within a day, at most; 0: any number
	}{
		"the listing breaks off":             {"list", "", away, 0},
		"the listing is not allowed":         {"list", "", errDenied, 25},
		"deletions fail":                     {"delete", "", away, 0},
		"deletions are not allowed":          {"remove", "try", errDenied, 25},
		"deletions are not allowed any more": {"delete", "", errDenied, 25},
		"writes are not allowed":             {"write", "try", errDenied, 25},
		"the lease may not be written":       {"hold", "", errDenied, 25},
		"the plan cannot be written":         {"write", "plan", away, 0},
		"the plan cannot be read":            {"read", "plan", away, 0},
		"uses cannot be read":                {"read", "uses/", away, 0},
		"the order cannot be read":           {"read", "order", away, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShared()
				dgst, used := s.put("content", 1), s.put("used", 1)
				var calls atomic.Int64
				s.failIf(func(operation, name string) error {
					if operation == fault.operation && strings.HasPrefix(name, fault.name) {
						calls.Add(1)
						return fault.err
					}
					return nil
				})
				u := s.mirror(t)
				s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = 10 * time.Hour })
				for range 24 {
					u.Used(used)
					pass(time.Hour)
				}
				made := int(calls.Load())
				if made == 0 || fault.again > 0 && made > fault.again {
					t.Errorf("%d calls failed, want some and at most %d", made, fault.again)
				}
				if !s.has(used) {
					t.Error("a content was removed that is used")
				}
				if fault.name != "order" {
					if !s.has(dgst) {
						t.Error("a content was removed")
					}
					if got := strings.Count(s.log.String(), "nothing is evicted from the bucket"); got != 1 {
						t.Errorf("%d lines of the log, want 1:\n%s", got, s.log.String())
					}
				}
				if got := len(s.uses()); got > 14 {
					t.Errorf("%d notes of uses are left", got)
				}
				s.failIf(nil)
				pass(3 * time.Hour)
				if s.has(dgst) {
					t.Error("the content was not removed after the trouble")
				}
			})
		})
	}
}

// Notes of strangers can change the order of eviction, and nothing else.
func TestSharedHostileNotes(t *testing.T) {
	victim := digest.FromString("victim")
	many := []byte("{\"format\":1}")
	for i := range 5000 {
		many = fmt.Appendf(many, "\n%s", digest.FromString(fmt.Sprint("invented", i)))
	}
	for name, document := range map[string][]byte{
		"nothing":                 nil,
		"garbage":                 []byte("\x00\xff\n\n\n"),
		"another format":          []byte("{\"format\":7}\n" + victim.String()),
		"no digests":              []byte("{\"format\":1}\n../../etc\nsha256:zz\nsha512:00"),
		"a long line":             []byte("{\"format\":1}\n" + strings.Repeat("a", 1<<20)),
		"a long first line":       []byte("{\"format\":1,\"x\":\"" + strings.Repeat("a", 1<<20) + "\"}\n" + victim.String()),
		"content that is missing": many,
		"a content many times":    []byte("{\"format\":1}" + strings.Repeat("\n"+victim.String(), 1000)),
		"too long":                []byte(strings.Repeat("x", 32<<20)),
	} {
		for _, at := range []string{"uses/STRANGER", "order", "plan"} {
			t.Run(name+" as "+at, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newShared()
					s.put("victim", 10)
					time.Sleep(time.Hour)
					kept := s.put("kept", 10)
					if err := s.Write(t.Context(), at, document); err != nil {
						t.Fatal(err)
					}
					u := s.mirror(t)
					s.evictor(t, func(o *evict.SharedOptions) { o.MaxBytes = 15 })
					pass(time.Second)
					u.Used(kept)
					pass(2 * time.Hour)
					if s.has(victim) || !s.has(kept) {
						t.Errorf("removed %v, want %s", s.removed(), victim)
					}
					if got := s.uses(); len(got) > 0 {
						t.Errorf("notes of uses are left: %v", got)
					}
				})
			})
		}
	}
}

// Keys of other programs are left alone, and named once. Records count.
func TestSharedOtherKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		old, late := s.put("old", 10), s.put("late", 10)
		s.foreign["backup/"], s.foreign["photo.jpg"], s.foreign["records/a"] = -1, -1, 15
		u := s.mirror(t)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxBytes = 30 })
		pass(time.Second)
		u.Used(late)
		pass(5 * time.Hour)
		if s.has(old) || !s.has(late) {
			t.Errorf("removed %v, want %s", s.removed(), old)
		}
		if got := s.log.String(); strings.Count(got, "keys=2") != 1 {
			t.Errorf("the log does not name the two keys once:\n%s", got)
		}
	})
}

// Content that mirrors upload is counted soon, and content that vanishes costs nothing.
func TestSharedChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		u := s.mirror(t)
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxBytes = 100 })
		pass(time.Minute)
		var all []digest.Digest
		for i := range 12 {
			all = append(all, s.put(fmt.Sprint("new", i), 10))
			u.Used(all[i])
			pass(interval)
		}
		pass(30 * time.Minute)
		if got, want := s.removed(), all[:3]; !equal(got, want) {
			t.Errorf("removed %v, want %v", got, want)
		}
		// An operator removes content, which the next listing finds out.
		s.mu.Lock()
		for _, dgst := range all[3:6] {
			delete(s.contents, dgst)
		}
		s.mu.Unlock()
		pass(2 * time.Hour)
		s.put("last", 20)
		pass(3 * time.Hour)
		if got := len(s.removed()); got != 3 {
			t.Errorf("%d contents were removed, want 3: there is room", got)
		}
	})
}

// Uses are told only while a mirror evicts, and lost ones are told again.
func TestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		u := s.mirror(t)
		dgst := s.put("content", 1)
		u.Used(dgst)
		pass(24 * time.Hour)
		if got := s.uses(); len(got) > 0 {
			t.Errorf("uses were told to nobody: %v", got)
		}
		u.Used(dgst)
		s.failIf(func(operation, name string) error {
			if operation == "write" && strings.HasPrefix(name, "uses/") {
				return errors.New("away")
			}
			return nil
		})
		s.evictor(t, func(o *evict.SharedOptions) { o.MaxUnused = 30 * time.Hour })
		pass(20 * time.Minute)
		s.failIf(nil)
		pass(10 * time.Hour)
		if !s.has(dgst) {
			t.Error("a content was removed whose use was not told for a time")
		}
		pass(40 * time.Hour)
		if s.has(dgst) {
			t.Error("the content was not removed")
		}
	})
}
