package spool

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// purse is a quota that counts.
type purse struct {
	limit, taken int64
	room         int64 // what MakeRoom can remove
	made         func(n int64)
}

func (p *purse) Check(_ string, n int64) error {
	if p.taken+n > p.limit {
		return fmt.Errorf("%w: the purse is empty", ErrNoSpace)
	}
	return nil
}

func (p *purse) Reserve(_ string, n, ahead int64, _ bool) (extra int64, err error) {
	if err := p.Check("", n); err != nil {
		return 0, err
	}
	extra = min(ahead, p.limit-p.taken-n)
	p.taken += n + extra
	return extra, nil
}

func (p *purse) Release(_ string, n int64) { p.taken -= n }

func (p *purse) MakeRoom(_ string, n int64) bool {
	if n > p.room {
		return false
	}
	p.room -= n
	p.made(n)
	return true
}

func (p *purse) Removable(string, int64) (int64, error) { return p.room, nil }

func (p *purse) expect(t *testing.T, what string, taken int64) {
	t.Helper()
	if p.taken != taken {
		t.Errorf("%s: %d taken, want %d", what, p.taken, taken)
	}
}

func withQuota(t *testing.T, limit int64) (*Dir, *purse) {
	quota := &purse{limit: limit}
	dir := NewDir(t.TempDir(), 0, quota)
	return dir, quota
}

// What a spool takes of the quota it keeps until its file is closed, written or
// not.
func TestQuota(t *testing.T) {
	dir, quota := withQuota(t, 1000)
	s, err := dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Announce(1001); !errors.Is(err, ErrNoSpace) {
		t.Errorf("more than the quota: %v, want ErrNoSpace", err)
	}
	quota.expect(t, "refused", 0)
	for range 2 { // a download that is resumed announces again
		if err := s.Announce(600); err != nil {
			t.Fatal(err)
		}
	}
	quota.expect(t, "announced", 0)
	write(t, s, pattern(100))
	quota.expect(t, "begun", 200)
	if err := s.Announce(600); err != nil {
		t.Fatal(err)
	}
	quota.expect(t, "announced again", 200)
	write(t, s, pattern(600)[100:])
	quota.expect(t, "written", 600)
	if _, err := dir.Create("", 401); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a second spool: %v, want ErrNoSpace", err)
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	r := reader(t, t.Context(), s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	quota.expect(t, "closed, with a reader left", 600)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	quota.expect(t, "at the end", 0)
}

func TestQuotaOfUnknownSize(t *testing.T) {
	dir, quota := withQuota(t, 4*maxAhead)
	s, err := dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, pattern(1000))
	quota.expect(t, "as much again as has come", 2000)
	if !s.Reset() {
		t.Fatal("cannot reset")
	}
	write(t, s, pattern(1000))
	quota.expect(t, "after a reset", 2000)
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	quota.expect(t, "complete", 1000)
	s.Close()
	quota.expect(t, "closed", 0)

	// Where a whole step does not fit, what is needed may.
	quota.limit = 1500
	s, err = dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, pattern(1000))
	quota.expect(t, "the rest", 1500)
	if _, err := s.Write(pattern(1000)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("2000 of 1500: %v, want ErrNoSpace", err)
	}
	s.Interrupt(ErrNoSpace)
	quota.expect(t, "broken", 1000)
	s.Close()
	quota.expect(t, "closed", 0)
}

func TestFailedSpoolKeepsNoPromises(t *testing.T) {
	dir, quota := withQuota(t, 1000)
	s, err := dir.Create("", 1000)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, pattern(100))
	s.Fail(io.ErrUnexpectedEOF)
	quota.expect(t, "failed", 100)
	if dir.pending != 0 {
		t.Errorf("%d pending", dir.pending)
	}
	s.Close()
	quota.expect(t, "closed", 0)
}

func TestHandOver(t *testing.T) {
	dir, quota := withQuota(t, 1000)
	s, err := dir.Create("", 1000)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, pattern(1000))
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	closed := 0
	if n := s.TransferQuota(func() { closed++ }); n != 1000 {
		t.Errorf("handed over %d bytes, want 1000", n)
	}
	r := reader(t, t.Context(), s)
	s.Close()
	if closed != 0 {
		t.Error("closed, while a reader is left")
	}
	r.Close()
	if closed != 1 {
		t.Errorf("told %d times that it is closed", closed)
	}
	quota.expect(t, "the taker's to give back", 1000)
}

// Where the filesystem is short of space, the quota is asked to remove what can
// be had again.
func TestMakeRoom(t *testing.T) {
	dir, quota := withQuota(t, 1<<40)
	free := int64(1000)
	dir.minFree, dir.reuse, dir.free = 400, 0, func(string) (int64, error) { return free, nil }
	quota.room, quota.made = 250, func(n int64) { free += n }
	if _, err := dir.CreateNoWait("", 800); !errors.Is(err, ErrBusy) || quota.room != 250 {
		t.Errorf("200 short, and no time to make room: %v with %d left, want ErrBusy with 250", err, quota.room)
	}
	quota.expect(t, "busy", 0)
	s, err := dir.Create("", 800)
	if err != nil {
		t.Errorf("200 short of 250: %v", err)
	}
	if quota.room != 50 {
		t.Errorf("%d bytes of room are left, want 50: no more than needed goes", quota.room)
	}
	if _, err := dir.Create("", 100); !errors.Is(err, ErrNoSpace) {
		t.Errorf("100 short of 50: %v, want ErrNoSpace", err)
	}
	quota.expect(t, "refused", 800)
	if n, err := dir.Free(); n != 400 || err != nil {
		t.Errorf("Free = %d, %v, want 400: what is promised is not free", n, err)
	}
	s.Close()
}

// slowQuota is a quota whose next reservation takes as long as the test wants.
type slowQuota struct {
	*purse
	asked, answer chan struct{}
}

func (q *slowQuota) Reserve(owner string, n, ahead int64, wait bool) (int64, error) {
	if n > 0 {
		close(q.asked)
		<-q.answer
	}
	return q.purse.Reserve(owner, n, ahead, wait)
}

// A spool that ends while it asks for space gives that space back.
func TestSpoolEndsWhileItAsksForSpace(t *testing.T) {
	for name, end := range map[string]func(*Spool) error{
		"failed": func(s *Spool) error { s.Fail(io.ErrUnexpectedEOF); return nil },
		"closed": (*Spool).Close,
	} {
		t.Run(name, func(t *testing.T) {
			quota := &slowQuota{purse: &purse{limit: 1000}, asked: make(chan struct{}), answer: make(chan struct{})}
			dir := NewDir(t.TempDir(), 0, quota)
			s, err := dir.Create("", -1)
			if err != nil {
				t.Fatal(err)
			}
			grown := make(chan error)
			go func() { grown <- s.grow(600, 400) }()
			<-quota.asked
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			close(quota.answer)
			if err := <-grown; err != nil {
				t.Fatal(err)
			}
			quota.expect(t, name, 0)
			if dir.pending != 0 {
				t.Errorf("%d bytes are pending", dir.pending)
			}
		})
	}
}

// An announcement takes nothing, neither of the quota nor of the filesystem, and
// removes nothing. Space is reserved for bytes that have come, and at most as much
// again in advance.
func TestAnnouncementCostsNothing(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		announced, come int64
		taken           int64 // of the quota
		removed         int64 // from the filesystem
	}{
		"one byte of a GiB":          {announced: 1 << 30, come: 1, taken: 2},
		"one byte of an unknown sum": {announced: -1, come: 1, taken: 2},
		"a MiB of a GiB":             {announced: 1 << 30, come: mib, taken: 1792 << 10},
		"all but a byte":             {announced: 3*mib + 1, come: 3 * mib, taken: 3*mib + 1},
		"no byte":                    {announced: 1 << 30},
		"more than is free":          {announced: 1 << 30, come: 6 * mib, taken: 6 * mib, removed: 2 * mib},
		"many steps":                 {announced: -1, come: 3 * mib, taken: 3840 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			dir, quota := withQuota(t, 1<<40)
			free := int64(4 * mib) // beyond the kept space
			dir.minFree, dir.reuse, dir.free = mib, 0, func(string) (int64, error) { return mib + free, nil }
			quota.room = 2 << 30
			removed := int64(0)
			quota.made = func(n int64) { free += n; removed += n }
			s, err := dir.Create("", -1)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if c.announced >= 0 {
				if err := s.Announce(c.announced); err != nil {
					t.Fatal(err)
				}
			}
			quota.expect(t, "announced", 0)
			const buffer = 128 << 10
			for left := c.come; left > 0; left -= buffer {
				n := min(left, buffer)
				write(t, s, pattern(int(n)))
				free -= n
			}
			if quota.taken > max(2*c.come, 0) || quota.taken < c.come {
				t.Errorf("%d bytes are taken for %d", quota.taken, c.come)
			}
			if c.removed != removed {
				t.Errorf("%d bytes were removed, want %d", removed, c.removed)
			}
			quota.expect(t, "come", c.taken)
			if dir.pending != c.taken-c.come {
				t.Errorf("%d bytes are promised, want %d", dir.pending, c.taken-c.come)
			}
		})
	}
}

// A length that cannot fit is refused before anything is removed for it.
func TestAnnouncementThatCannotFit(t *testing.T) {
	dir, quota := withQuota(t, 1<<40)
	dir.minFree, dir.reuse, dir.free = 100, 0, func(string) (int64, error) { return 1100, nil }
	quota.room, quota.made = 500, func(int64) { t.Error("something was removed") }
	s, err := dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Announce(1500); err != nil {
		t.Errorf("1500 of 1000 that are free and 500 that can be removed: %v", err)
	}
	if err := s.Announce(1501); !errors.Is(err, ErrNoSpace) {
		t.Errorf("one byte more: %v, want ErrNoSpace", err)
	}
	if dir.pending != 0 || quota.taken != 0 {
		t.Errorf("%d bytes are promised, %d taken", dir.pending, quota.taken)
	}
}

// An announcement promises nothing, also while it is checked: another download gets the
// space. Sizes that no filesystem has do not overflow.
func TestAnnouncementPromisesNothing(t *testing.T) {
	for name, size := range map[string]int64{"half": 500, "too much": 5000, "the largest size": 1<<63 - 1, "nearly the largest size": 1<<63 - 1000} {
		t.Run(name, func(t *testing.T) {
			dir, quota := withQuota(t, 1<<62)
			quota.taken = 10
			var during int64
			dir.minFree, dir.reuse, dir.free = 100, 0, func(string) (int64, error) { during = max(during, dir.pending); return 1050, nil }
			dir.pending = 1000 // of other downloads: less than minFree is left
			s := &Spool{dir: dir}
			if err := s.Announce(size); !errors.Is(err, ErrNoSpace) {
				t.Errorf("Announce = %v, want ErrNoSpace", err)
			}
			if during != 1000 || dir.pending != 1000 {
				t.Errorf("%d and then %d bytes are promised", during, dir.pending)
			}
		})
	}
}

// A lack of space that a download causes says nothing about the filesystem.
func TestNoSpaceCausedByInput(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for name, c := range map[string]struct {
		err  NoSpaceError
		want bool
	}{
		"larger than what is free":             {NoSpaceError{Want: 5 * gib, Free: 4 * gib}, true},
		"larger than what could be removed":    {NoSpaceError{Want: 5 * gib, Free: gib, Removable: 3 * gib}, true},
		"larger than a small filesystem":       {NoSpaceError{Want: gib, Free: gib + mib, Total: gib + 10*mib}, true},
		"the largest size that is told apart":  {NoSpaceError{Want: 1 << 60, Free: 2 * gib}, true},
		"an endless download of 20 MiB":        {NoSpaceError{Want: mib, Own: 20 * mib, Free: gib}, true},
		"others' programs have filled it":      {NoSpaceError{Want: mib, Free: mib}, false},
		"a layer, and there is little room":    {NoSpaceError{Want: 100 * mib, Free: gib + 10*mib}, false},
		"a huge blob, and there is no room":    {NoSpaceError{Want: 1 << 60, Free: gib - mib}, false},
		"all is promised to running downloads": {NoSpaceError{Want: 100 * mib, Free: 4 * gib, Promised: 3 * gib}, false},
		"a failed write":                       {NoSpaceError{Want: 5 * gib, Free: 4 * gib, Err: errors.New("ENOSPC")}, false},
	} {
		c.err.Keep = gib
		if c.err.Total == 0 {
			c.err.Total = 100 * gib
		}
		if got := c.err.CausedByInput(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
