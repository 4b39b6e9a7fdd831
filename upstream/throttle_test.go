package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// newThrottle returns the throttle of a body that has begun, and the waits that it tells of.
func newThrottle(t *testing.T, blob bool, limits ...int64) (*throttle, *[]time.Duration) {
	t.Helper()
	waits := make([]time.Duration, 2) // the last one, by limit
	body := &throttle{blob: blob, waited: func(limit int, d time.Duration) { waits[limit] = d }}
	for i, bytes := range limits {
		body.limits[i] = NewBandwidth(bytes)
	}
	if _, err := body.await(t.Context(), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return body, &waits
}

// A body with two limits waits for the one that is due later, and tells which one that is.
func TestThrottleWaitsForTheLaterLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for slow := range 2 {
			body, waits := newThrottle(t, true, 1<<20, 1<<20)
			began := time.Now()
			body.due[slow], body.due[1-slow] = began.Add(10*time.Second), began.Add(time.Second)
			if _, err := body.await(t.Context(), make([]byte, 1)); err != nil || time.Since(began) != 10*time.Second {
				t.Errorf("limit %d: it waited for %v, %v", slow, time.Since(began), err)
			}
			if (*waits)[slow] != 10*time.Second || (*waits)[1-slow] != 0 {
				t.Errorf("limit %d: it tells of %v", slow, *waits)
			}
		}
	})
}

// A body gets the smaller turn of its limits, and its wait ends with its context.
func TestTurnsOfAThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			limits []int64
			want   int
		}{
			{nil, 4 << 20}, {[]int64{64 << 10}, minChunk}, {[]int64{1 << 20}, 16 << 10}, {[]int64{1 << 40}, maxChunk},
			{[]int64{0, 1 << 20}, 16 << 10}, {[]int64{1 << 20, 64 << 10}, minChunk}, {[]int64{64 << 10, 1 << 20}, minChunk},
		} {
			body, _ := newThrottle(t, true, c.limits...)
			if p, err := body.await(t.Context(), make([]byte, 4<<20)); err != nil || len(p) != c.want {
				t.Errorf("limits %v: a turn of %d bytes, want %d, %v", c.limits, len(p), c.want, err)
			}
		}
		body, _ := newThrottle(t, true, 64<<10)
		body.due[0] = time.Now().Add(time.Hour)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := body.await(ctx, make([]byte, 1)); err != context.DeadlineExceeded {
			t.Errorf("after the end of its context: %v", err)
		}
	})
}

// Documents wait for nothing. They count up to a second's bytes in advance, so that many of them do not
// stop blobs for longer.
func TestDocumentsOfAThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const second = 64 << 10
		document, _ := newThrottle(t, false, second)
		began := time.Now()
		for range 100 {
			if _, err := document.await(t.Context(), make([]byte, second)); err != nil {
				t.Fatal(err)
			}
			document.spend(second)
		}
		if time.Since(began) > 0 {
			t.Errorf("documents waited for %v", time.Since(began))
		}
		pace := document.limits[0].pace()
		if debt := time.Duration(-pace.TokensAt(began) / second * float64(time.Second)); debt <= 0 || debt > 3*time.Second {
			t.Errorf("documents have spent %v in advance", debt)
		}
		// More bytes than a turn of a limit that was lowered meanwhile are counted too.
		blob := throttle{limits: document.limits, blob: true}
		blob.spend(10 * second)
		if due := blob.due[0].Sub(began); due <= 0 || due > time.Minute {
			t.Errorf("the next bytes are due after %v", due)
		}
		blob.spend(0)
		blob.spend(-1)
		if spent := blob.due[0].Sub(began); spent > time.Minute {
			t.Errorf("nothing cost %v", spent)
		}
	})
}

// All bytes count by a low limit too, whose tenth of a second is less than a turn. Bytes that were due
// earlier are no wait, and the same limit, as a reload sets it, forgives nothing.
func TestLowLimitOfAThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, waits := newThrottle(t, true, 2*minChunk)
		limit, began := body.limits[0], time.Now()
		for range 11 {
			body.spend(minChunk)
		}
		if due := body.due[0].Sub(began); due != 5*time.Second { // the first turn is free
			t.Errorf("the next bytes are due after %v", due)
		}
		before := limit.pace()
		if limit.Set(2 * minChunk); limit.pace() != before {
			t.Error("the same limit has begun anew")
		}
		time.Sleep(6 * time.Second)
		if _, err := body.await(t.Context(), make([]byte, 1)); err != nil || (*waits)[0] != 0 {
			t.Errorf("bytes that are due tell of a wait of %v, %v", (*waits)[0], err)
		}
	})
}
