package evict_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
)

// bring stores a new blob of an owner, and returns the error of its spool. A second
// passes.
func (l *limited) bring(owner string, size int) (digest.Digest, error) {
	l.t.Helper()
	l.made++
	content := fmt.Appendf(nil, "%0*d", size, l.made)
	s, err := l.memory.Spools().Create(owner, -1)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err = s.Write(content); err != nil {
		return "", err
	}
	must(l.t, s.Complete())
	dgst := digest.FromBytes(content)
	must(l.t, l.Commit(l.t.Context(), dgst, s))
	must(l.t, s.Close())
	time.Sleep(time.Second)
	synctest.Wait()
	return dgst, nil
}

// has returns how many of some blobs are stored. That does not count as a use.
func (l *limited) has(contents []digest.Digest) (stored int) {
	for _, dgst := range contents {
		if _, err := l.memory.Stat(l.t.Context(), dgst); err == nil {
			stored++
		}
	}
	return stored
}

// A flood of one owner's content leaves the others at least half of the store, for a day
// after each use of theirs. An owner that is alone, or whose neighbours are idle, has all
// of it.
func TestFloodLeavesOthersTheirShare(t *testing.T) {
	const limit = 1000
	for name, c := range map[string]struct {
		one   bool // a single owner has the store
		own   int  // blobs of 100 bytes that the flooding owner has at the beginning
		idle  time.Duration
		owner string // of the others' blobs
		least int    // of nine blobs of others that are left, and
		most  int
	}{
		"others have all":                    {owner: "honest", least: 4, most: 5},
		"others have all, for a day":         {owner: "honest", idle: 23*time.Hour + 58*time.Minute, least: 4, most: 5},
		"others have all, idle for a day":    {owner: "honest", idle: 24 * time.Hour},
		"stored before the start":            {owner: "", least: 4, most: 5},
		"one block":                          {owner: "honest", one: true},
		"the flooding owner has its share":   {owner: "honest", own: 5, least: 4, most: 4},
		"others have little":                 {owner: "honest", own: 8, least: 1, most: 1},
		"the content was the flood's before": {owner: "hostile"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimited(t, limit, evict.Options{})
				l.SetShared(!c.one)
				for range c.own {
					_, err := l.bring("hostile", 100)
					must(t, err)
				}
				var others []digest.Digest
				for range 9 - c.own {
					dgst, err := l.bring(c.owner, 100)
					must(t, err)
					others = append(others, dgst)
				}
				time.Sleep(c.idle)
				for range 40 {
					_, err := l.bring("hostile", 100)
					must(t, err)
				}
				if left := l.has(others); left < c.least || left > c.most {
					t.Errorf("%d of %d contents of others are left, want %d to %d", left, len(others), c.least, c.most)
				}
				if u := l.Usage(); u.Stored > limit || u.Stored < limit*8/10 {
					t.Errorf("%d bytes are stored of %d", u.Stored, limit)
				}
			})
		})
	}
}

// Running downloads of one owner evict no more than its share, whether they end or not.
func TestDownloadsOfOneOwnerReserveItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 10_000, evict.Options{})
		l.SetShared(true)
		var others []digest.Digest
		for range 9 {
			dgst, err := l.bring("honest", 1000)
			must(t, err)
			others = append(others, dgst)
		}
		var full *evict.FullError
		var refused error
		for range 40 {
			s, err := l.memory.Spools().Create("hostile", -1)
			must(t, err)
			defer s.Close()
			if _, err = s.Write(make([]byte, 500)); err != nil {
				refused = err
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if !errors.As(refused, &full) || full.Reason != evict.OverShare || !full.CausedByInput() || !strings.Contains(refused.Error(), "more than any other block") {
			t.Errorf("a flood of downloads: %v", refused)
		}
		if left := l.has(others); left < 4 {
			t.Errorf("%d of %d contents of others are left", left, len(others))
		}
		// Others can still store content, at the cost of their own alone.
		if _, err := l.bring("honest", 1000); err != nil {
			t.Errorf("another owner: %v", err)
		}
		if _, err := l.bring("third", 1000); err != nil {
			t.Errorf("a third owner: %v", err)
		}
		if u := l.Usage(); u.Stored+u.Reserved > 10_000 {
			t.Errorf("%+v", u)
		}
	})
}

// Without max_size, the share is one of the bytes that are stored: an owner makes room in
// the filesystem by evicting its own content.
func TestShareOfTheFilesystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{})
		l.SetShared(true)
		var honest []digest.Digest
		for range 4 {
			dgst, err := l.bring("honest", 100)
			must(t, err)
			honest = append(honest, dgst)
		}
		var hostile []digest.Digest
		for range 6 {
			dgst, err := l.bring("hostile", 100)
			must(t, err)
			hostile = append(hostile, dgst)
		}
		if n, limited := l.quota.Removable("hostile", 100); n != 600 || !errors.Is(limited, spool.ErrNoSpace) {
			t.Errorf("Removable = %d, %v", n, limited)
		}
		if n, limited := l.quota.Removable("honest", 100); n != 1000 || limited != nil {
			t.Errorf("Removable for the other one = %d, %v", n, limited)
		}
		if l.quota.MakeRoom("hostile", 601) {
			t.Error("MakeRoom evicts content of others")
		}
		if !l.quota.MakeRoom("hostile", 150) || l.has(honest) != 4 || l.has(hostile) != 4 {
			t.Errorf("%d and %d contents are left", l.has(honest), l.has(hostile))
		}
		// No owner has more than the other now.
		if !l.quota.MakeRoom("honest", 100) || l.has(honest) != 3 || l.has(hostile) != 4 {
			t.Errorf("%d and %d contents are left", l.has(honest), l.has(hostile))
		}
		time.Sleep(24 * time.Hour)
		if !l.quota.MakeRoom("hostile", 700) || l.Usage().Objects != 0 {
			t.Errorf("%+v is left of content that was idle for a day", l.Usage())
		}
	})
}

// An owner whose downloads take more than its share uses up no headroom again and again
// at the cost of others: their content goes only if the kept space itself is short.
func TestHeadroomIsNotRestoredForAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Int64
		free.Store(10_000)
		l := newLimited(t, 0, evict.Options{MinFree: 1000, Free: func() (int64, error) { return free.Load(), nil }})
		l.SetShared(true)
		var honest []digest.Digest
		for range 4 {
			dgst, err := l.bring("honest", 100)
			must(t, err)
			honest = append(honest, dgst)
		}
		s, err := l.memory.Spools().Create("hostile", -1)
		must(t, err)
		_, err = s.Write(make([]byte, 600))
		must(t, err)
		for _, c := range []struct {
			free int64 // the headroom is a twentieth of MinFree
			kept bool
		}{{1049, true}, {1020, true}, {1000, true}, {990, false}} {
			free.Store(c.free)
			time.Sleep(time.Minute)
			synctest.Wait()
			if left := l.has(honest); (left == len(honest)) != c.kept {
				t.Errorf("%d bytes are free: %d contents are left", c.free, left)
			}
		}
		must(t, s.Close())
	})
}

// Owners beyond the number that can be told apart share one share. Their names take no
// memory, and their bytes are counted right.
func TestManyOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 100_000, evict.Options{})
		l.SetShared(true)
		for i := range 600 {
			_, err := l.bring(fmt.Sprint("block", i), 100)
			must(t, err)
		}
		if got, want := l.Usage(), (evict.Usage{Stored: 60_000, Objects: 600}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// Floods of several owners at once leave another one as much as they get, whether it has
// much or little and whether it was here before them.
func TestFloodsOfManyLeaveAnEqualShare(t *testing.T) {
	for name, c := range map[string]struct {
		floods, honest int // owners, and blobs of the honest one
		owner          string
		least          int // of its blobs that are left
	}{
		"two":                     {2, 45, "honest", 15},
		"three":                   {3, 45, "honest", 11},
		"two, it has little":      {2, 10, "honest", 10},
		"before the start":        {2, 45, "", 15},
		"three, before the start": {3, 45, "", 11},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimited(t, 5000, evict.Options{})
				l.SetShared(true)
				var honest []digest.Digest
				for range c.honest {
					dgst, err := l.bring(c.owner, 100)
					must(t, err)
					honest = append(honest, dgst)
				}
				for range 100 {
					for flood := range c.floods {
						_, err := l.bring(fmt.Sprint("hostile", flood), 100)
						must(t, err)
					}
				}
				if left := l.has(honest); left < c.least-1 {
					t.Errorf("%d of %d contents are left, want %d", left, c.honest, c.least)
				}
				if u := l.Usage(); u.Stored < 4000 {
					t.Errorf("%d bytes are stored of 5000", u.Stored)
				}
				// Another owner finds room beside them.
				for range 5 {
					_, err := l.bring("late", 100)
					must(t, err)
				}
			})
		})
	}
}
