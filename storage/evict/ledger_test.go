package evict

import "testing"

func TestLedger(t *testing.T) {
	for name, c := range map[string]struct {
		before  ledger
		do      func(*ledger)
		want    ledger
		fits    int64 // most bytes that can be reserved now; -1: not even none
		canFit  int64 // and if all were evicted that is not in use
		full    bool
		crowded bool
	}{
		"empty": {
			before: ledger{max: 1000}, want: ledger{max: 1000}, fits: 1000, canFit: 1000,
		},
		"reserved": {
			before: ledger{max: 1000},
			do:     func(l *ledger) { l.reserve(unowned, 300) },
			want:   ledger{max: 1000, reserved: 300}, fits: 700, canFit: 700,
		},
		"too much is not reserved": {
			before: ledger{max: 1000, stored: 500, reserved: 300},
			do: func(l *ledger) {
				if l.reserve(unowned, 201) {
					l.max = 0
				}
			},
			want: ledger{max: 1000, stored: 500, reserved: 300}, fits: 200, canFit: 700,
		},
		"released": {
			before: ledger{max: 1000, reserved: 300},
			do:     func(l *ledger) { l.release(unowned, 100) },
			want:   ledger{max: 1000, reserved: 200}, fits: 800, canFit: 800,
		},
		"committed: the sum stays": {
			before: ledger{max: 1000, reserved: 300},
			do:     func(l *ledger) { l.commit(unowned, 300, 300) },
			want:   ledger{max: 1000, stored: 300, pinned: 300}, fits: 700, canFit: 700,
		},
		"closed: it can be evicted": {
			before: ledger{max: 1000, stored: 300, pinned: 300},
			do:     func(l *ledger) { l.unpin(unowned, 300) },
			want:   ledger{max: 1000, stored: 300}, fits: 700, canFit: 1000,
		},
		"the headroom is used up": {
			before: ledger{max: 1000, stored: 951}, want: ledger{max: 1000, stored: 951}, fits: 49, canFit: 1000, crowded: true,
		},
		"the headroom is untouched": {
			before: ledger{max: 1000, stored: 950}, want: ledger{max: 1000, stored: 950}, fits: 50, canFit: 1000,
		},
		"a download waits": {
			before: ledger{max: 1000, stored: 900, waiting: 101}, want: ledger{max: 1000, stored: 900, waiting: 101},
			fits: 100, canFit: 1000, full: true, crowded: true,
		},
		"the limit was lowered": {
			before: ledger{max: 1000},
			do:     func(l *ledger) { l.add(unowned, 2000); l.pin(unowned, 1500) },
			want:   ledger{max: 1000, stored: 2000, pinned: 1500}, fits: -1, canFit: -1, full: true, crowded: true,
		},
		"deleted for free space": {
			before: ledger{max: 1000, stored: 500, requested: 300},
			do:     func(l *ledger) { l.deleted(unowned, 200) },
			want:   ledger{max: 1000, stored: 300, requested: 100, freed: 200}, fits: 700, canFit: 1000,
		},
		"deleted more than was requested": {
			before: ledger{max: 1000, stored: 500, requested: 100},
			do:     func(l *ledger) { l.deleted(unowned, 200) },
			want:   ledger{max: 1000, stored: 300, freed: 200}, fits: 700, canFit: 1000,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := c.before
			if c.do != nil {
				c.do(&l)
			}
			l.accounts = c.want.accounts // TestAccounts has them
			if l != c.want {
				t.Errorf("%+v, want %+v", l, c.want)
			}
			if !l.fits(c.fits) && c.fits >= 0 || l.fits(c.fits+1) {
				t.Errorf("want %d bytes to fit and not one more", c.fits)
			}
			if !l.canFit(c.canFit) && c.canFit >= 0 || l.canFit(c.canFit+1) {
				t.Errorf("want %d bytes to fit after evictions and not one more", c.canFit)
			}
			if l.full() != c.full || l.crowded() != c.crowded {
				t.Errorf("full %v, crowded %v, want %v, %v", l.full(), l.crowded(), c.full, c.crowded)
			}
		})
	}
}

// Without a limit everything fits, and nothing is ever evicted for its size.
func TestLedgerWithoutALimit(t *testing.T) {
	l := ledger{stored: 1 << 50}
	if !l.reserve(unowned, 1<<50) || !l.canFit(1<<60) || l.full() || l.crowded() {
		t.Errorf("%+v has a limit", l)
	}
}

func TestHeadroom(t *testing.T) {
	for limit, want := range map[int64]int64{0: 0, 19: 0, 1000: 50, 20 << 30: 1 << 30, 1 << 50: 1 << 30} {
		if got := headroom(limit); got != want {
			t.Errorf("headroom of %d is %d, want %d", limit, got, want)
		}
	}
}
