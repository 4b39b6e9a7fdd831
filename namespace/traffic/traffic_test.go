package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type mirror struct {
	*traffic.Counter
	fetched atomic.Int64
}

func start(m *storagetest.Memory, name string) *mirror {
	one := new(mirror)
	one.Counter = traffic.New(traffic.Options{
		Records: catalog.New(m.Records(), catalog.Options{Shared: true}), Mirror: func() string { return name }, Fetched: one.fetched.Load,
	})
	return one
}

func (m *mirror) of(t *testing.T) traffic.Figures {
	t.Helper()
	f, err := m.Figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Answers count at once in all periods, and leave them with time.
func TestPeriods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := start(storagetest.NewMemory(t), "one")
		defer one.Close(context.Background())
		one.Answered(100, true)
		one.Answered(50, false)
		one.fetched.Store(30)
		want := catalog.Amounts{Requests: 2, Hits: 1, Served: 150, Fetched: 30}
		none := catalog.Amounts{}
		for _, step := range []struct {
			after                 time.Duration
			now, hour, day, month catalog.Amounts
		}{
			{0, want, want, want, want},
			{30 * time.Second, want, want, want, want},
			{31 * time.Second, none, want, want, want},
			{time.Hour, none, none, want, want},
			{24 * time.Hour, none, none, none, want},
			{30 * 24 * time.Hour, none, none, none, none},
		} {
			after(step.after)
			f := one.of(t)
			if f.Now != step.now || f.Hour != step.hour || f.Day != step.day || f.Month != step.month || one.Now() != step.now {
				t.Errorf("%s later: %+v", step.after, f)
			}
			if len(f.Curve) != 96 || time.Since(f.Curve[95].Time) >= 15*time.Minute || f.Curve[1].Time.Sub(f.Curve[0].Time) != 15*time.Minute {
				t.Errorf("the curve ends with %+v", f.Curve[95])
			}
			sum := none
			for _, p := range f.Curve {
				sum = sum.Plus(p.Amounts)
			}
			if sum != step.day {
				t.Errorf("the curve has %+v", sum)
			}
		}
	})
}

// The figures are in the record after a minute or at the end, and a new process goes on with them.
func TestFiguresOutliveTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storagetest.NewMemory(t)
		one := start(m, "one")
		one.Answered(1, true)
		after(61 * time.Second)
		if n := m.Calls("Put"); n != 1 {
			t.Errorf("%d writings in a minute", n)
		}
		after(10 * time.Minute)
		if n := m.Calls("Put"); n != 1 {
			t.Errorf("%d writings without an answer", n)
		}
		one.Answered(2, true)
		one.Close(t.Context())
		again := start(m, "one")
		after(time.Second)
		if got := again.of(t); got.Hour.Served != 3 || got.Month.Requests != 2 {
			t.Errorf("after a restart: %+v", got.Hour)
		}
		again.Answered(4, true)
		again.Close(t.Context())
		if got, err := catalog.New(m.Records(), catalog.Options{}).Traffic(t.Context(), "one"); err != nil || got.Days.Slots[0].Served != 7 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// Mirrors on the same records add up, but for the last minute.
func TestMirrorsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storagetest.NewMemory(t)
		one, two := start(m, "one"), start(m, "two")
		defer one.Close(context.Background())
		defer two.Close(context.Background())
		one.Answered(1, true)
		two.Answered(10, true)
		if got := one.of(t); got.Day.Served != 1 {
			t.Errorf("at once: %+v", got.Day)
		}
		after(2 * time.Minute)
		if got := one.of(t); got.Day.Served != 11 || got.Now.Served != 0 {
			t.Errorf("two minutes later: %+v", got)
		}
	})
}

// Records that cannot be read or written lose nothing, and a record that was not read is never replaced.
func TestRecordsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storagetest.NewMemory(t)
		one := start(m, "one")
		one.Answered(1, true)
		one.Close(t.Context())
		m.FailPut(errors.New("disk full"))
		again := start(m, "one")
		again.Answered(2, true)
		after(3 * time.Minute)
		m.FailPut(nil)
		after(time.Minute)
		if got, err := catalog.New(m.Records(), catalog.Options{}).Traffic(t.Context(), "one"); err != nil || got.Days.Slots[0].Served != 3 {
			t.Errorf("%+v, %v", got, err)
		}
		again.Close(t.Context())
		var none *traffic.Counter
		none.Answered(1, true)
		none.Close(t.Context())
	})
}

// unreadable are records whose reading fails.
type unreadable struct {
	*catalog.Catalog
	fail atomic.Bool
}

func (u *unreadable) Traffic(ctx context.Context, mirror string) (catalog.Traffic, error) {
	if u.fail.Load() {
		return catalog.Traffic{}, errors.New("the bucket is away")
	}
	return u.Catalog.Traffic(ctx, mirror)
}

func TestRecordIsReadBeforeItIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storagetest.NewMemory(t)
		one := start(m, "one")
		one.Answered(1, true)
		one.Close(t.Context())
		records := &unreadable{Catalog: catalog.New(m.Records(), catalog.Options{})}
		records.fail.Store(true)
		c := traffic.New(traffic.Options{Records: records, Mirror: func() string { return "one" }, Fetched: func() int64 { return 0 }})
		c.Answered(2, true)
		after(3 * time.Minute)
		if n := m.Calls("Put"); n != 1 {
			t.Errorf("%d writings", n)
		}
		records.fail.Store(false)
		after(2 * time.Minute)
		c.Close(t.Context())
		if got, err := records.Traffic(t.Context(), "one"); err != nil || got.Days.Slots[0].Served != 3 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// The last requests are remembered in order, with texts of bounded length, and without an allocation.
func TestRecent(t *testing.T) {
	r := traffic.NewRecent()
	if r.Last() != 0 || len(r.Since(0)) != 0 {
		t.Error("requests before the first one")
	}
	for i := range 250 {
		r.Add(traffic.Request{
			Method: "GET", Repository: fmt.Sprint("a/", i), ID: storage.RepoID{Namespace: "a", Name: fmt.Sprint(i)},
			Reference: "v1", Status: i, Address: netip.IPv6Loopback(),
		})
	}
	all := r.Since(0)
	if len(all) != traffic.MaxRecent || r.Last() != 250 || all[0].Status != 249 || all[199].Status != 50 {
		t.Fatalf("%d requests, the last one %+v", len(all), all[0])
	}
	for _, one := range all {
		if one.Method != "GET" || one.Repository != fmt.Sprint("a/", one.Status) || one.Reference != "v1" || one.ID != (storage.RepoID{Namespace: "a", Name: fmt.Sprint(one.Status)}) || one.Number != uint64(one.Status)+1 {
			t.Errorf("%+v", one)
		}
	}
	if some := r.Since(248); len(some) != 2 || some[0].Number != 250 {
		t.Errorf("behind 248: %+v", some)
	}
	r.Add(traffic.Request{Method: strings.Repeat("M", 9999), Repository: strings.Repeat("R", 9999)})
	if one := r.Since(250)[0]; len(one.Method) != 512 || len(one.Repository) != 512 || one.Reference != "" {
		t.Errorf("%d and %d bytes", len(one.Method), len(one.Repository))
	}
	fresh, usual := traffic.NewRecent(), traffic.Request{
		Method: "GET", Repository: "docker.io/library/alpine", ID: storage.RepoID{Namespace: "docker.io", Name: "library/alpine"}, Reference: "sha256:" + strings.Repeat("0", 64),
	}
	if n := testing.AllocsPerRun(150, func() { fresh.Add(usual) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none *traffic.Recent
	none.Add(usual)
}
