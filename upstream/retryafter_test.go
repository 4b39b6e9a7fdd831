package upstream

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // Unix time 1767323045
	const minute = time.Minute
	for _, test := range []struct {
		status int // 0: 429
		header []string
		want   time.Duration // 0: not told
	}{
		{0, nil, defaultRetryAfter},
		{0, []string{"Retry-After", "7"}, 7 * time.Second},
		{0, []string{"Retry-After", " 7 "}, 7 * time.Second},
		{0, []string{"Retry-After", "0"}, time.Second},
		{0, []string{"Retry-After", "1.5"}, 1500 * time.Millisecond},
		{0, []string{"Retry-After", "0.25"}, time.Second},
		{0, []string{"Retry-After", "1e2"}, 100 * time.Second},
		{0, []string{"Retry-After", "5s"}, 5 * time.Second},
		{0, []string{"Retry-After", "1m30s"}, 90 * time.Second},
		{0, []string{"Retry-After", "1500ms"}, 1500 * time.Millisecond},
		{0, []string{"Retry-After", "5 s"}, 5 * time.Second},
		{0, []string{"Retry-After", "30 seconds"}, 30 * time.Second},
		{0, []string{"Retry-After", "2 Minutes"}, 2 * minute},
		{0, []string{"Retry-After", `"60"`}, minute},
		{0, []string{"Retry-After", "60, 120"}, minute},
		{0, []string{"Retry-After", "Fri, 02 Jan 2026 03:05:05 GMT"}, minute},
		{0, []string{"Retry-After", "Friday, 02-Jan-26 03:05:05 GMT"}, minute},
		{0, []string{"Retry-After", "Fri Jan  2 03:05:05 2026"}, minute},
		{0, []string{"Retry-After", "2026-01-02T03:05:05Z"}, minute},
		{0, []string{"Retry-After", "1767323105"}, minute}, // Docker Hub
		{0, []string{"Retry-After", "1767323105.5"}, 60500 * time.Millisecond},
		{0, []string{"Retry-After", "1767323105000"}, minute}, // milliseconds
		{0, []string{"Retry-After", "1767323045"}, time.Second},
		{0, []string{"Retry-After", "1700000000"}, time.Second},
		{0, []string{"Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"}, time.Second},
		{0, []string{"Retry-After", "1767409445"}, maxRetryAfter},
		{0, []string{"Retry-After", "999999999999"}, maxRetryAfter},
		{0, []string{"Retry-After", "99999999999999999999999999"}, maxRetryAfter},
		{0, []string{"Retry-After", "1e999"}, maxRetryAfter},
		{0, []string{"Retry-After", "1000000h"}, maxRetryAfter},
		{0, []string{"Retry-After", "soon"}, defaultRetryAfter},
		{0, []string{"Retry-After", "-5"}, defaultRetryAfter},
		{0, []string{"Retry-After", "Inf"}, defaultRetryAfter},
		{0, []string{"Retry-After", "5 fortnights"}, defaultRetryAfter},
		{0, []string{"Retry-After", ""}, defaultRetryAfter},

		{0, []string{"X-Retry-After", "1767323105"}, minute},
		{0, []string{"X-Retry-After", "9"}, 9 * time.Second},
		{0, []string{"RateLimit-Reset", "50"}, 50 * time.Second},
		{0, []string{"RateLimit-Reset", "50;w=60"}, 50 * time.Second},
		{0, []string{"RateLimit-Reset", "1767323105"}, minute},
		{0, []string{"X-RateLimit-Reset", "1767323105"}, minute},
		{0, []string{"Retry-After", "soon", "X-Retry-After", "9"}, 9 * time.Second},
		{0, []string{"Retry-After", "soon", "Retry-After", "8", "X-Retry-After", "9"}, 8 * time.Second},
		{0, []string{"RateLimit-Reset", "50", "Retry-After", "7"}, 7 * time.Second},

		// A moment is one of the registry's own clock.
		{0, []string{"Date", "Fri, 02 Jan 2026 03:14:05 GMT", "Retry-After", "Fri, 02 Jan 2026 03:15:05 GMT"}, minute},
		{0, []string{"Date", "Fri, 02 Jan 2026 02:04:05 GMT", "Retry-After", "1767319505"}, minute},
		{0, []string{"Date", "Fri, 02 Jan 2026 03:04:02 GMT", "Retry-After", "1767323105"}, minute}, // late, but not wrong

		{503, nil, 0},
		{503, []string{"Retry-After", "7"}, 7 * time.Second},
		{503, []string{"Retry-After", "0"}, time.Second},
		{503, []string{"Retry-After", "1.5"}, 1500 * time.Millisecond},
		{503, []string{"Retry-After", "1767323105"}, minute},
		{503, []string{"Retry-After", "999999999"}, maxRetryAfter},
		{503, []string{"X-Retry-After", "5s"}, 5 * time.Second},
		{503, []string{"Retry-After", "soon"}, 0},
		{503, []string{"RateLimit-Reset", "50"}, 0},
		{500, []string{"Retry-After", "7"}, 7 * time.Second},
		{404, []string{"Retry-After", "7"}, 0},
		{403, []string{"Retry-After", "7"}, 0},
	} {
		e := &Error{Status: test.status, Class: ClassUnavailable}
		switch test.status {
		case 0:
			e.Class, e.Status = ClassRateLimited, http.StatusTooManyRequests
		case 404:
			e.Class = ClassNotFound
		case 403:
			e.Class = ClassDenied
		}
		header := make(http.Header)
		for i := 0; i < len(test.header); i += 2 {
			header.Add(test.header[i], test.header[i+1])
		}
		if e.noteRetryAfter(header, now); e.RetryAfter != test.want {
			t.Errorf("%d %v: %v, want %v", e.Status, test.header, e.RetryAfter, test.want)
		}
	}
}

// FuzzRetryAfter feeds any value: a pause is within its bounds.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"7", "1.5", "5s", "1767323105", "Fri, 02 Jan 2026 03:05:05 GMT", "1e999", "60;w=1", "2 minutes"} {
		f.Add(value, int64(1767323045))
	}
	f.Fuzz(func(t *testing.T, value string, unix int64) {
		after, ok := parseRetryAfter(value, time.Unix(unix, 0))
		if ok && (after < minRetryAfter || after > maxRetryAfter) || !ok && after != 0 {
			t.Errorf("%q at %d: %v, %v", value, unix, after, ok)
		}
	})
}
