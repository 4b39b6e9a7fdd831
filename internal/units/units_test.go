package units_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/internal/units"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0s",
		10 * time.Second:              "10s",
		time.Minute:                   "1m",
		20 * time.Minute:              "20m",
		90 * time.Second:              "1m30s",
		90 * time.Minute:              "1h30m",
		6 * time.Hour:                 "6h",
		10 * time.Hour:                "10h",
		6*time.Hour + 30*time.Minute:  "6h30m",
		6*time.Hour + 10*time.Second:  "6h0m10s",
		time.Hour + time.Minute + 1e9: "1h1m1s",
		-time.Minute:                  "-1m",
	} {
		if got := units.Duration(d); got != want {
			t.Errorf("%v is written %q, not %q", d, got, want)
		}
	}
}

func TestIEC(t *testing.T) {
	for n, want := range map[int64]string{-1: "0 B", 0: "0 B", 5 << 20: "5.0 MiB", 200 << 30: "200 GiB"} {
		if got := units.IEC(n); got != want {
			t.Errorf("%d is written %q, not %q", n, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	for want, c := range map[string]struct {
		bytes int64
		over  time.Duration
	}{
		"0 B/s": {0, time.Second}, "5.0 MiB/s": {10 << 20, 2 * time.Second}, "20 MiB/s": {10 << 20, time.Second / 2},
		"1.0 KiB/s": {1 << 10, 0}, "17 B/s": {1 << 10, time.Minute},
	} {
		if got := units.Rate(c.bytes, c.over); got != want {
			t.Errorf("%d bytes over %v are %q, not %q", c.bytes, c.over, got, want)
		}
	}
}
