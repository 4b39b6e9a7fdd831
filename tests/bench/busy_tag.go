package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/tests/load"
)

const (
	tagClients = 64 // that pull one tag again and again
	busyRounds = 7  // of each of two binaries
	busyTime   = 3 * time.Second
)

// busyTagAgainst measures many clients of one tag that is checked at each pull, 20 ms away. The
// clients that come during a check share it. The rounds of an older binary, if there is one,
// alternate with those of this one.
func busyTagAgainst(ctx context.Context, dir, older string) (rows []row, err error) {
	up, err := startTagUpstream()
	if err != nil {
		return nil, err
	}
	defer up.server.Close()
	mirrors, err := startPair(ctx, dir, up.url, older)
	for _, m := range mirrors {
		defer m.stop()
	}
	if err != nil {
		return nil, err
	}
	sound := "ok"
	up.mode.Store(&sound)
	up.distance.Store(int64(tagDistance))
	rates, costs, asked := make([][]float64, len(mirrors)), make([][]float64, len(mirrors)), make([][]float64, len(mirrors))
	for round := range busyRounds + 1 {
		for i, m := range mirrors {
			before, start, requests := m.cpu(), time.Now(), up.requests.Load()
			answers, err := busyTag(ctx, m)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first one fills the cache
				rates[i] = append(rates[i], float64(answers)/time.Since(start).Seconds())
				costs[i] = append(costs[i], m.cpu().minus(before, float64(answers)/1000).total())
				asked[i] = append(asked[i], float64(up.requests.Load()-requests)*1000/float64(answers))
			}
		}
	}
	for i, label := range []string{"one tag", "one tag, the older binary"}[:len(mirrors)] {
		rows = append(rows, row{
			fmt.Sprintf("%s, %d connections: requests/s; upstream requests per 1,000; CPU of the mirror per 1,000 requests", label, tagClients),
			fmt.Sprintf("%.0f; %.1f; %.4f s", median(rates[i]), median(asked[i]), median(costs[i])),
		})
	}
	if older != "" {
		ratios := make([]float64, busyRounds)
		for i := range ratios {
			ratios[i] = costs[0][i] / costs[1][i]
		}
		rows = append(rows, row{"one tag: this binary's part of the CPU of the older one", fmt.Sprintf("%.2f", median(ratios))})
	}
	return rows, nil
}

// busyTag makes the pulls of one round, and returns how many there were.
func busyTag(ctx context.Context, m *mirror) (answers int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	var n atomic.Int64
	var clients errgroup.Group
	for range tagClients {
		clients.Go(func() error {
			return load.Request(ctx, m.addr, "/v2/bench/app/manifests/v1", "", func() bool { n.Add(1); return true })
		})
	}
	err = clients.Wait()
	return n.Load(), err
}
