package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/weirhq/weir/internal/units"
)

const day = 24 * time.Hour

// Duration is a length of time that is written as "30s", "5m", "12h", "7d" or as a
// sum such as "1d12h". It is never negative.
type Duration time.Duration

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns the form that [Duration.UnmarshalText] reads, with whole days as
// such.
func (d Duration) String() string {
	days, rest := time.Duration(d)/day, time.Duration(d)%day
	if d <= 0 || days == 0 { // no whole day
		return units.Duration(time.Duration(d))
	}
	if rest == 0 {
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dd%s", days, units.Duration(rest))
}

// MarshalText returns the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration, its days first. It returns an error if the
// duration is negative or longer than about 292 years.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	total, rest := time.Duration(0), s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 63)
		switch {
		case errors.Is(err, strconv.ErrRange), err == nil && n > uint64(math.MaxInt64/day):
			return fmt.Errorf("%q is too long", s)
		case err != nil:
			return notDuration(s)
		}
		total, rest = time.Duration(n)*day, after
		if rest == "" { // whole days
			rest = "0"
		}
	}
	part, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return notDuration(s)
	case part < 0:
		return fmt.Errorf("%q is negative", s)
	case part > math.MaxInt64-total: // the sum would overflow
		return fmt.Errorf("%q is too long", s)
	}
	*d = Duration(total + part)
	return nil
}

func notDuration(s string) error {
	return fmt.Errorf(`%q is not a duration within range; write one like "30s", "5m", "12h", "7d" or "1d12h"`, s)
}

// Size is a number of bytes that is written as "5MiB", "200GiB" or "1.5GB". It
// is never negative.
type Size int64

// maxExact bounds the number before a unit: go-humanize reads it as a float64,
// which represents every integer up to 2^53 exactly.
const maxExact = 1 << 53

// String returns the form that [Size.UnmarshalText] reads: the largest binary
// unit that divides the size.
func (s Size) String() string {
	units := []string{"EiB", "PiB", "TiB", "GiB", "MiB", "KiB"}
	for i, unit := range units {
		factor := Size(1) << (10 * (len(units) - i))
		if s > 0 && s%factor == 0 && s/factor <= maxExact {
			return fmt.Sprintf("%d%s", s/factor, unit)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// MarshalText returns the form that UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size. A number without a unit counts bytes. It returns an
// error if the size is negative or larger than 8 EiB.
func (s *Size) UnmarshalText(text []byte) error {
	written := strings.TrimSpace(string(text))
	if strings.HasPrefix(written, "-") {
		return fmt.Errorf("%q is negative", written)
	}
	// A number of bytes is not read as a float64, which could lose the last ones.
	if n, err := strconv.ParseInt(strings.TrimSuffix(written, "B"), 10, 64); err == nil {
		*s = Size(n)
		return nil
	} else if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%q is too large", written)
	}
	n, err := humanize.ParseBytes(written)
	switch {
	case err != nil:
		return fmt.Errorf(`%q is not a size within range; write one like "512KiB", "5MiB" or "200GiB"`, written)
	case n > math.MaxInt64:
		return fmt.Errorf("%q is too large", written)
	}
	*s = Size(n)
	return nil
}
