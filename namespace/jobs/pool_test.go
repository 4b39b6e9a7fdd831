package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/namespace/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// named is the key of a job.
type named string

func (n named) String() string { return string(n) }
func (n named) Block() string  { return string(n) }

// newPool returns a pool and a check of its metrics.
func newPool(size int) (*jobs.Pool, func(want string) error) {
	r := prometheus.NewRegistry()
	pool := jobs.NewPool(size, jobs.NewMetrics(r), slog.New(slog.NewTextHandler(io.Discard, nil)))
	return pool, func(want string) error {
		var text strings.Builder
		text.WriteString("# HELP weir_jobs Background cache jobs by state: running or queued.\n# TYPE weir_jobs gauge\n")
		var running, queued, done, dropped, failed int
		if _, err := fmt.Sscanf(want, "%d %d, %d %d %d", &running, &queued, &done, &dropped, &failed); err != nil {
			return err
		}
		fmt.Fprintf(&text, "weir_jobs{state=\"queued\"} %d\nweir_jobs{state=\"running\"} %d\n", queued, running)
		text.WriteString("# HELP weir_jobs_total Background cache jobs that ended, by result: done, failed or dropped.\n# TYPE weir_jobs_total counter\n")
		fmt.Fprintf(&text, "weir_jobs_total{result=\"done\"} %d\nweir_jobs_total{result=\"dropped\"} %d\nweir_jobs_total{result=\"failed\"} %d\n", done, dropped, failed)
		return testutil.GatherAndCompare(r, strings.NewReader(text.String()))
	}
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 3
		pool, metrics := newPool(size)
		defer pool.Close()
		gate := make(chan struct{})
		var running, most, ran atomic.Int32
		job := func(context.Context) error {
			most.Store(max(most.Load(), running.Add(1)))
			<-gate
			running.Add(-1)
			if ran.Add(1) == 1 {
				return errors.New("the first one fails")
			}
			return nil
		}
		const room = size + size*64
		for i := range room {
			if !pool.Submit(named(fmt.Sprint(i)), job) {
				t.Fatalf("job %d of %d was dropped", i, room)
			}
		}
		synctest.Wait()
		// One that is running or waiting stands for another of its key, and
		// there is no room for a new one.
		for _, key := range []string{"0", "100"} {
			if !pool.Submit(named(key), job) {
				t.Errorf("%s was dropped", key)
			}
		}
		if pool.Submit(named("one too many"), job) {
			t.Error("the pool has no bound")
		}
		if err := metrics("3 192, 0 1 0"); err != nil {
			t.Error(err)
		}
		close(gate)
		synctest.Wait()
		if ran.Load() != room || most.Load() != size {
			t.Errorf("%d jobs ran, %d at once", ran.Load(), most.Load())
		}
		if err := metrics("0 0, 194 1 1"); err != nil {
			t.Error(err)
		}
		// A job that has ended can be submitted again.
		pool.Submit(named("0"), job)
		synctest.Wait()
		if ran.Load() != room+1 {
			t.Error("a key is taken for ever")
		}
	})
}

func TestPoolClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, metrics := newPool(1)
		var ran atomic.Int32
		job := func(ctx context.Context) error {
			ran.Add(1)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		pool.Submit(named("running"), job)
		pool.Submit(named("waiting"), job)
		synctest.Wait()
		pool.Close()
		if ran.Load() != 1 {
			t.Errorf("%d jobs ran", ran.Load())
		}
		if pool.Submit(named("late"), job) {
			t.Error("a closed pool takes jobs")
		}
		if err := metrics("0 0, 0 1 1"); err != nil {
			t.Error(err)
		}
	})
}

func TestPoolWithoutMetrics(t *testing.T) {
	pool := jobs.NewPool(1, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	done := make(chan struct{})
	pool.Submit(named("a"), func(context.Context) error { close(done); return nil })
	<-done
	pool.Close()
}

// Jobs run in the order in which they came, and one that fails is logged by its name.
func TestPoolOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		pool := jobs.NewPool(1, nil, slog.New(slog.NewTextHandler(&log, nil)))
		gate := make(chan struct{})
		var order []string // by the one worker
		for _, key := range []string{"a", "b", "c"} {
			pool.Submit(named(key), func(context.Context) error {
				<-gate
				order = append(order, key)
				if key == "b" {
					return errors.New("the disk is full")
				}
				return nil
			})
		}
		close(gate)
		synctest.Wait()
		pool.Close()
		if got := strings.Join(order, ""); got != "abc" {
			t.Errorf("the jobs ran in the order %q", got)
		}
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `job=b error="the disk is full"`) {
			t.Errorf("the log says %s", text)
		}
	})
}

// A pool that is closed twice, or has never run a job, ends at once.
func TestPoolCloseTwice(t *testing.T) {
	pool := jobs.NewPool(2, nil, slog.New(slog.DiscardHandler))
	if pool.Size() != 2 {
		t.Errorf("the size is %d", pool.Size())
	}
	pool.Close()
	pool.Close()
}

// of is the key of a job of a block.
type of struct {
	block  string
	number int
}

func (o of) String() string { return fmt.Sprint(o.block, o.number) }
func (o of) Block() string  { return o.block }

// Jobs of a block that never end leave room for those of other blocks, to run and to
// wait, and end by themselves after hours.
func TestPoolSharesPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		size    int
		hostile []string
		others  int
	}{
		"one block of four":  {size: 4, hostile: []string{"a"}, others: 40},
		"two blocks of four": {size: 4, hostile: []string{"a", "b"}, others: 30},
		"one block of two":   {size: 2, hostile: []string{"a"}, others: 30},
		"one block of 16":    {size: 16, hostile: []string{"a"}, others: 250},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := jobs.NewPool(c.size, nil, slog.New(slog.DiscardHandler))
				defer pool.Close()
				var stuck atomic.Int32
				for _, block := range c.hostile {
					for i := range 1000 {
						pool.Submit(of{block, i}, func(ctx context.Context) error {
							stuck.Add(1)
							defer stuck.Add(-1)
							<-ctx.Done()
							return context.Cause(ctx)
						})
					}
				}
				synctest.Wait()
				var done atomic.Int32
				for i := range c.others {
					if !pool.Submit(of{"honest", i}, func(context.Context) error { done.Add(1); return nil }) {
						t.Fatalf("job %d was dropped", i)
					}
				}
				synctest.Wait()
				if done.Load() != int32(c.others) {
					t.Errorf("%d of %d jobs of the honest block are done, %d of others are stuck", done.Load(), c.others, stuck.Load())
				}
				if stuck.Load() == 0 {
					t.Error("the other blocks run no jobs")
				}
			})
		})
	}
}

// Blocks that together hold all places lose one after half an hour if another block waits,
// and none if no other one does.
func TestPoolTakesTurns(t *testing.T) {
	const turn = 30 * time.Minute
	for name, c := range map[string]struct {
		size, hostile, others int
		within                time.Duration // until all jobs of the honest block are done
	}{
		"a place is free":        {size: 4, hostile: 2, others: 10},
		"three blocks of four":   {size: 4, hostile: 3, others: 3, within: turn},
		"four blocks of four":    {size: 4, hostile: 4, others: 3, within: 2 * turn},
		"two blocks of two":      {size: 2, hostile: 2, others: 2, within: turn},
		"more blocks than wait":  {size: 4, hostile: 7, others: 1, within: 2 * turn},
		"one place, another one": {size: 1, hostile: 1, others: 1, within: turn},
		"no other block waits":   {size: 4, hostile: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := jobs.NewPool(c.size, nil, slog.New(slog.DiscardHandler))
				defer pool.Close()
				var ended atomic.Int32
				for b := range c.hostile {
					for i := range 100 {
						pool.Submit(of{fmt.Sprint("hostile", b), i}, func(ctx context.Context) error {
							<-ctx.Done()
							ended.Add(1)
							return context.Cause(ctx)
						})
					}
				}
				synctest.Wait()
				var done atomic.Int32
				for i := range c.others {
					if !pool.Submit(of{"honest", i}, func(context.Context) error { done.Add(1); return nil }) {
						t.Fatalf("job %d was dropped", i)
					}
				}
				time.Sleep(c.within)
				synctest.Wait()
				if done.Load() != int32(c.others) {
					t.Errorf("%d of %d jobs are done", done.Load(), c.others)
				}
				if c.within == 0 {
					time.Sleep(5 * time.Hour)
				}
				synctest.Wait()
				if got := ended.Load(); c.within == 0 && got != 0 || got > int32(c.size)*int32(c.within/turn) {
					t.Errorf("%d jobs of others have ended", got)
				}
			})
		})
	}
}

// A job does not run for ever.
func TestPoolEndsLongJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, metrics := newPool(1)
		defer pool.Close()
		pool.Submit(named("endless"), func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
		pool.Submit(named("next"), func(context.Context) error { return nil })
		time.Sleep(24 * time.Hour)
		if err := metrics("0 0, 1 0 1"); err != nil {
			t.Error(err)
		}
	})
}
