package catalog_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

func one(n int64) catalog.Amounts { return catalog.Amounts{Requests: n} }

// A series has the newest slot first, zeros in gaps, and no more slots than it may have.
func TestSeries(t *testing.T) {
	var s catalog.Series
	for _, step := range []struct {
		slot int64
		want []catalog.Amounts
	}{
		{10, []catalog.Amounts{one(1)}},
		{10, []catalog.Amounts{one(2)}},
		{12, []catalog.Amounts{one(1), {}, one(2)}},
		{13, []catalog.Amounts{one(1), one(1), {}, one(2)}},
		{14, []catalog.Amounts{one(1), one(1), one(1), {}}},
		{13, []catalog.Amounts{one(2), one(1), {}}}, // the clock was set back
		{2, []catalog.Amounts{one(1)}},
		{1000, []catalog.Amounts{one(1)}},
	} {
		s.Add(step.slot, one(1), 4)
		if diff := cmp.Diff(catalog.Series{Newest: step.slot, Slots: step.want}, s); diff != "" {
			t.Errorf("at %d: %s", step.slot, diff)
		}
	}
	s.Add(1002, one(5), 4)
	if s.At(1000) != one(1) || s.At(1001) != one(0) || s.At(999) != one(0) || s.At(1003) != one(0) || s.Sum(1002, 2) != one(5) || s.Sum(1002, 3) != one(6) {
		t.Errorf("%+v", s)
	}
}

// The traffic of the mirrors on the same records adds up. Mirrors that have been gone for a month are forgotten.
func TestTrafficAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCatalog(t)
		of := func(at time.Time, n int64) (traffic catalog.Traffic) {
			traffic.Add(at, one(n))
			return traffic
		}
		now := time.Now()
		must(t, c.PutTraffic(t.Context(), "gone", of(now, 1000)))
		time.Sleep(29 * catalog.Day)
		now = time.Now()
		must(t, c.PutTraffic(t.Context(), "ours", of(now, 1)))
		must(t, c.PutTraffic(t.Context(), "two", of(now.Add(-2*time.Minute), 10).Plus(of(now, 20))))
		must(t, c.PutTraffic(t.Context(), "three", of(now.Add(-25*time.Hour), 100)))
		must(t, c.PutTraffic(t.Context(), "ahead", of(now.Add(catalog.Day), 5000))) // its clock
		got, err := c.TrafficBeside(t.Context(), "ours")
		must(t, err)
		if n := got.Days.Sum(catalog.SlotOf(now, catalog.Day), catalog.MaxDays); n != one(1130) {
			t.Errorf("30 days have %+v", n)
		}
		if n := got.Quarters.Sum(catalog.SlotOf(now, catalog.Quarter), catalog.MaxQuarters); n != one(30) {
			t.Errorf("the day has %+v", n)
		}
		if n := got.Minutes.Sum(catalog.SlotOf(now, time.Minute), 2); n != one(20) {
			t.Errorf("the last two minutes have %+v", n)
		}
		time.Sleep(catalog.Day)
		got, err = c.TrafficBeside(t.Context(), "ours")
		must(t, err)
		if _, gone := c.Traffic(t.Context(), "gone"); !errors.Is(gone, storage.ErrNotExist) || got.Days.Sum(catalog.SlotOf(time.Now(), catalog.Day), catalog.MaxDays).Requests == 1130 {
			t.Errorf("the record of a mirror that is gone: %v", gone)
		}
		if repos, err := c.Repositories(t.Context()); len(repos) != 0 || err != nil {
			t.Errorf("traffic makes repositories: %v, %v", repos, err)
		}
		if !catalog.Owns("_traffic/ours") || catalog.Owns("_mirror") {
			t.Error("the mirrors on a bucket do not share their traffic")
		}
	})
}

// Records that no mirror writes count as absent.
func TestForgedTraffic(t *testing.T) {
	c, m := newCatalog(t)
	for _, text := range []string{
		`{}`, `{"version":2}`, `{"version":1,"days":{"slots":[{"hits":-1}]}}`, `{"version":1,"days":{"newest":-1}}`,
		`{"version":1,"minutes":{"newest":1,"slots":[` + strings.Repeat("{},", 60) + `{}]}}`,
	} {
		must(t, m.Records().Put(t.Context(), "_traffic/one", []byte(text)))
		if _, err := c.Traffic(t.Context(), "one"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: %v", text, err)
		}
		if got, err := c.TrafficBeside(t.Context(), "two"); err != nil || len(got.Days.Slots) != 0 {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	must(t, m.Records().Put(t.Context(), "_traffic/one", []byte(`{"version":1,"days":{"newest":9223372036854775807,"slots":[{"hits":1}]}}`)))
	if got, err := c.TrafficBeside(t.Context(), "two"); err != nil || got.Days.Sum(catalog.SlotOf(time.Now(), catalog.Day), 30).Hits != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"", "a/b"} {
		if err := c.PutTraffic(t.Context(), name, catalog.Traffic{}); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
