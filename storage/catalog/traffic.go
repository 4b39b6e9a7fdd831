package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/storage"
)

const (
	// trafficVersion is the version of the records of traffic. A record of another version
	// counts as absent.
	trafficVersion = 1
	// trafficSegment begins the keys of the records of traffic, one for each mirror. They are
	// of no sort, like [keepingKey]: they are about no repository, and few.
	trafficSegment = "_traffic" // /<mirror>
)

// A record of traffic has the slots of an hour, of a day and of a month.
const (
	MaxMinutes  = 60
	MaxQuarters = 96 // of an hour
	MaxDays     = 30
)

// Quarter is the length of a slot of which [MaxQuarters] are kept, and Day of one of which
// [MaxDays] are.
const (
	Quarter = 15 * time.Minute
	Day     = 24 * time.Hour
)

// Amounts are what a mirror has answered in some time.
type Amounts struct {
	Requests int64 `json:"requests,omitempty"` // answers in which the cache had a part
	Hits     int64 `json:"hits,omitempty"`     // those of them that came from the cache
	Served   int64 `json:"served,omitempty"`   // bytes of bodies sent to clients
	Fetched  int64 `json:"fetched,omitempty"`  // bytes of content read from upstreams
}

// Plus returns the sum of two amounts.
func (a Amounts) Plus(b Amounts) Amounts {
	return Amounts{a.Requests + b.Requests, a.Hits + b.Hits, a.Served + b.Served, a.Fetched + b.Fetched}
}

// Minus returns the difference of two amounts.
func (a Amounts) Minus(b Amounts) Amounts {
	return Amounts{a.Requests - b.Requests, a.Hits - b.Hits, a.Served - b.Served, a.Fetched - b.Fetched}
}

func (a Amounts) valid() bool { return min(a.Requests, a.Hits, a.Served, a.Fetched) >= 0 }

// Series are the amounts of successive slots of time of one length.
type Series struct {
	Newest int64     `json:"newest,omitempty"` // number of the first slot, from 1970 on
	Slots  []Amounts `json:"slots,omitempty"`  // the newest first
}

// SlotOf returns the number of the slot of a length that a time lies in.
func SlotOf(at time.Time, length time.Duration) int64 { return at.Unix() / int64(length/time.Second) }

// At returns the amounts of a slot.
func (s Series) At(slot int64) Amounts {
	if ago := s.Newest - slot; ago >= 0 && ago < int64(len(s.Slots)) {
		return s.Slots[ago]
	}
	return Amounts{}
}

// Sum returns the amounts of n slots, of which the last one is given.
func (s Series) Sum(last int64, n int) (sum Amounts) {
	for slot := last; slot > last-int64(n); slot-- {
		sum = sum.Plus(s.At(slot))
	}
	return sum
}

// Add adds amounts to a slot, which is the newest one from then on, and keeps that many slots at most. Slots behind it
// come from a clock that ran ahead, and are dropped.
func (s *Series) Add(slot int64, a Amounts, most int) {
	switch ahead := slot - s.Newest; {
	case len(s.Slots) == 0 || ahead >= int64(most):
		s.Slots = []Amounts{{}}
	case ahead > 0:
		s.Slots = slices.Insert(s.Slots, 0, make([]Amounts, ahead)...)
	case -ahead < int64(len(s.Slots)):
		s.Slots = s.Slots[-ahead:]
	default:
		s.Slots = []Amounts{{}}
	}
	s.Newest = slot
	s.Slots = s.Slots[:min(len(s.Slots), most)]
	s.Slots[0] = s.Slots[0].Plus(a)
}

// plus returns the sum of two series, with that many slots at most.
func (s Series) plus(o Series, most int) Series {
	if len(s.Slots) == 0 || len(o.Slots) == 0 {
		if len(s.Slots) == 0 {
			s = o
		}
		return Series{s.Newest, slices.Clone(s.Slots)}
	}
	sum := Series{Newest: max(s.Newest, o.Newest)}
	oldest := min(s.Newest-int64(len(s.Slots)), o.Newest-int64(len(o.Slots))) + 1
	for slot := sum.Newest; slot >= oldest && len(sum.Slots) < most; slot-- {
		sum.Slots = append(sum.Slots, s.At(slot).Plus(o.At(slot)))
	}
	return sum
}

// until returns the series without slots behind the last one, which a clock that ran ahead has written.
func (s Series) until(last int64) Series {
	if ahead := s.Newest - last; ahead > 0 {
		return Series{last, s.Slots[min(ahead, int64(len(s.Slots))):]}
	}
	return s
}

func (s Series) valid(most int) bool {
	return s.Newest >= 0 && len(s.Slots) <= most && !slices.ContainsFunc(s.Slots, func(a Amounts) bool { return !a.valid() })
}

// Traffic is what a mirror has answered, by minutes, quarters of an hour and days of UTC.
type Traffic struct {
	Version  int    `json:"version"`
	Minutes  Series `json:"minutes"`
	Quarters Series `json:"quarters"`
	Days     Series `json:"days"`
}

// Add adds the amounts of a moment.
func (t *Traffic) Add(at time.Time, a Amounts) {
	t.Version = trafficVersion
	t.Minutes.Add(SlotOf(at, time.Minute), a, MaxMinutes)
	t.Quarters.Add(SlotOf(at, Quarter), a, MaxQuarters)
	t.Days.Add(SlotOf(at, Day), a, MaxDays)
}

// Plus returns the sum of two traffics.
func (t Traffic) Plus(o Traffic) Traffic {
	return Traffic{
		trafficVersion, t.Minutes.plus(o.Minutes, MaxMinutes),
		t.Quarters.plus(o.Quarters, MaxQuarters), t.Days.plus(o.Days, MaxDays),
	}
}

func (t Traffic) until(now time.Time) Traffic {
	t.Minutes = t.Minutes.until(SlotOf(now, time.Minute))
	t.Quarters = t.Quarters.until(SlotOf(now, Quarter))
	t.Days = t.Days.until(SlotOf(now, Day))
	return t
}

func validTraffic(_ string, t Traffic) error {
	if t.Version != trafficVersion {
		return fmt.Errorf("%w: traffic in version %d of its format", storage.ErrInvalidRecord, t.Version)
	}
	if !t.Minutes.valid(MaxMinutes) || !t.Quarters.valid(MaxQuarters) || !t.Days.valid(MaxDays) {
		return fmt.Errorf("%w: impossible counts of traffic", storage.ErrInvalidRecord)
	}
	return nil
}

func trafficKey(mirror string) (string, error) {
	if mirror == "" || strings.Contains(mirror, "/") {
		return "", fmt.Errorf("%w: traffic of a mirror %q", storage.ErrInvalidKey, mirror)
	}
	key := trafficSegment + "/" + mirror
	return key, storage.ValidateKey(key)
}

// PutTraffic replaces the traffic of a mirror.
func (c *Catalog) PutTraffic(ctx context.Context, mirror string, t Traffic) error {
	key, err := trafficKey(mirror)
	if err != nil {
		return err
	}
	return c.traffic.put(ctx, key, t)
}

// Traffic returns the traffic of a mirror, or ErrNotExist.
func (c *Catalog) Traffic(ctx context.Context, mirror string) (Traffic, error) {
	key, err := trafficKey(mirror)
	if err != nil {
		return Traffic{}, err
	}
	t, err := c.traffic.get(ctx, key)
	return t.until(time.Now()), err
}

// TrafficBeside returns the sum of the traffic of all mirrors on these records but one. Records that
// say nothing about the last month any more, of mirrors that are gone, are deleted.
func (c *Catalog) TrafficBeside(ctx context.Context, mirror string) (Traffic, error) {
	sum, now, records := Traffic{Version: trafficVersion}, time.Now(), 0
	for key, err := range c.records.List(ctx, trafficSegment) {
		if err != nil {
			return Traffic{}, fmt.Errorf("storage: cannot list the traffic of the mirrors: %w", err)
		}
		if key == trafficSegment+"/"+mirror {
			continue
		}
		one, err := c.traffic.get(ctx, key)
		if errors.Is(err, storage.ErrNotExist) { // unreadable, or deleted since it was listed
			continue
		}
		if err != nil {
			return Traffic{}, err
		}
		if one.Days.Newest <= SlotOf(now, Day)-MaxDays {
			_ = c.traffic.delete(ctx, key) // it adds nothing, and the next reader tries again
			continue
		}
		sum = sum.Plus(one.until(now))
		if records++; records == maxReplicas {
			break
		}
	}
	return sum, nil
}
