package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultRetryAfter is for a 429 without Retry-After: long enough to spare the
	// registry, and short enough that an operator need not step in.
	defaultRetryAfter = 60 * time.Second
	// maxRetryAfter bounds how long a wrong or hostile header stops all pulls.
	maxRetryAfter = 15 * time.Minute
	// minRetryAfter keeps a moment that has passed from becoming no pause at all.
	minRetryAfter = time.Second
	// maxClockError is the difference between two clocks that the whole seconds of
	// HTTP dates and the time of an answer on its way explain.
	maxClockError = 5 * time.Second
	// longAgo is older than any clock that runs: those of machines without a battery
	// begin at the time when their system was built.
	longAgo = 20 * 365 * 24 * time.Hour
)

// noteRetryAfter reads how long the registry asks clients to wait after a refusal.
func (e *Error) noteRetryAfter(header http.Header, now time.Time) {
	retry := []string{"Retry-After", "X-Retry-After"}
	switch {
	case e.Class == ClassRateLimited:
		after, told := retryAfter(header, now, append(retry, "RateLimit-Reset", "X-RateLimit-Reset")...)
		if !told {
			after = defaultRetryAfter
		}
		e.RetryAfter = after
	case e.Status >= http.StatusInternalServerError:
		// The end of a rate limit's window says nothing about the end of a fault.
		e.RetryAfter, _ = retryAfter(header, now, retry...)
	}
}

// retryAfter returns how long a registry asks clients to wait. The names are those
// of Retry-After (RFC 9110 section 10.2.3) and of the fields that registries and
// proxies send in its place; the first one that is understood counts. It returns
// false if there is none.
func retryAfter(header http.Header, now time.Time, names ...string) (time.Duration, bool) {
	// A moment is one of the registry's clock, which the Date shows.
	if date, err := http.ParseTime(header.Get("Date")); err == nil && date.Sub(now).Abs() > maxClockError {
		now = date
	}
	for _, name := range names {
		for _, value := range header.Values(name) {
			if after, ok := parseRetryAfter(value, now); ok {
				return after, true
			}
		}
	}
	return 0, false
}

// parseRetryAfter reads a pause: seconds, a fraction of them, a duration such as
// "5s" or "2 minutes", or the moment of its end as an HTTP date or a Unix time.
func parseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.Trim(value, "\" \t\r\n")
	after, ok := parsePause(value)
	// A number that would be a Unix time of long ago, such as 999999999, means "never".
	if moment, isMoment := parseMoment(value); isMoment && (!ok || now.Sub(moment) < longAgo) {
		after, ok = moment.Sub(now), true
	}
	if !ok {
		// Two proxies that each add a value, or parameters as in "60;w=3600".
		first, _, more := strings.Cut(value, ";")
		if !more {
			first, _, more = strings.Cut(value, ",")
		}
		if !more {
			return 0, false
		}
		if after, ok = parsePause(strings.TrimSpace(first)); !ok {
			return 0, false
		}
	}
	return min(max(after, minRetryAfter), maxRetryAfter), true
}

// parsePause reads a number of seconds, or a number with a unit. The result is at
// most maxRetryAfter.
func parsePause(text string) (time.Duration, bool) {
	if seconds, ok := parseSeconds(text); ok {
		return toDuration(seconds, maxRetryAfter), seconds >= 0
	}
	if pause, err := time.ParseDuration(text); err == nil {
		return min(pause, maxRetryAfter), pause >= 0
	}
	number, unit, _ := strings.Cut(text, " ")
	count, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return 0, false
	}
	unit = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(unit)), "s")
	for length, names := range map[time.Duration][]string{
		time.Second: {"", "sec", "second"}, time.Minute: {"m", "min", "minute"}, time.Hour: {"h", "hour"},
	} {
		for _, name := range names {
			if unit == name {
				return min(time.Duration(count)*length, maxRetryAfter), true
			}
		}
	}
	return 0, false
}
