package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// againstRounds are the rounds of each of two binaries, by turns. A median of that many is steady
// on a machine with a load of ten for each processor.
const againstRounds = 15

// manifestsAgainst compares the warm manifests of this tree with those of an older binary. The
// rounds alternate, so that a busy machine slows both alike.
func manifestsAgainst(ctx context.Context, dir string, up *upstream, older string) ([]row, error) {
	mirrors, err := startPair(ctx, dir, up.url, older)
	for _, m := range mirrors {
		defer m.stop()
	}
	if err != nil {
		return nil, err
	}
	path := up.addManifest()
	seconds := make([][]float64, len(mirrors))
	for round := range againstRounds + 1 {
		for i, m := range mirrors {
			before := m.cpu()
			if err := m.ask(ctx, path, ""); err != nil {
				return nil, err
			}
			if round > 0 { // the first one fills the cache
				seconds[i] = append(seconds[i], m.cpu().minus(before, manifestClients*loginRequests/1000).total())
			}
		}
	}
	rows := []row{{"warm manifest: CPU of the mirror per 1,000 requests", fmt.Sprintf("%.4f s", median(seconds[0]))}}
	if older != "" {
		ratios := make([]float64, againstRounds)
		for i := range ratios {
			ratios[i] = seconds[0][i] / seconds[1][i]
		}
		rows = append(rows, row{"the same of the older binary, and this one's part of it", fmt.Sprintf("%.4f s, %.2f", median(seconds[1]), median(ratios))})
	}
	return rows, nil
}

// startPair starts a mirror of this tree and, unless older is empty, one of an older binary. It
// returns those that run, also with an error.
func startPair(ctx context.Context, dir, upstream, older string) ([]*mirror, error) {
	now, err := startMirror(ctx, filepath.Join(dir, "now"), upstream, "")
	if err != nil {
		return nil, err
	}
	if older == "" {
		return []*mirror{now}, nil
	}
	before := &mirror{binary: older, config: filepath.Join(dir, "older.toml")}
	if err := before.configure(filepath.Join(dir, "older"), upstream, ""); err != nil {
		return []*mirror{now}, err
	}
	if err := before.start(ctx); err != nil {
		return []*mirror{now}, err
	}
	return []*mirror{now, before}, nil
}

// startRounds are the starts of each of two binaries.
const startRounds = 31

// startsAgainst compares the time from the start of the process to its first answer, and its
// memory after that.
func startsAgainst(ctx context.Context, dir string, up *upstream, older string) ([]row, error) {
	now, err := startMirror(ctx, filepath.Join(dir, "now"), up.url, "")
	if err != nil {
		return nil, err
	}
	now.stop()
	mirrors, labels := []*mirror{now}, []string{"start"}
	if older != "" {
		before := &mirror{binary: older, config: filepath.Join(dir, "older.toml")}
		if err := before.configure(filepath.Join(dir, "older"), up.url, ""); err != nil {
			return nil, err
		}
		mirrors, labels = append(mirrors, before), append(labels, "start of the older binary")
	}
	type figures struct{ answered, cpu, memory []float64 }
	all := make([]figures, len(mirrors))
	for range startRounds {
		for i, m := range mirrors {
			began := time.Now()
			if err := m.start(ctx); err != nil {
				return nil, err
			}
			err := m.probe(ctx)
			all[i].answered = append(all[i].answered, time.Since(began).Seconds()*1000)
			time.Sleep(300 * time.Millisecond) // its work behind the first answer ends meanwhile
			peak, _ := m.daemon().memory()
			all[i].memory = append(all[i].memory, float64(peak)/mib)
			all[i].cpu = append(all[i].cpu, m.cpu().total()*1000)
			m.stop()
			if err != nil {
				return nil, err
			}
		}
	}
	var rows []row
	for i, f := range all {
		rows = append(rows, row{
			labels[i] + ": first answer; CPU; peak resident memory",
			fmt.Sprintf("%.0f ms; %.0f ms; %.0f MiB", median(f.answered), median(f.cpu), median(f.memory)),
		})
	}
	return rows, nil
}

// probe asks the mirror once.
func (m *mirror) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("the mirror answers " + resp.Status)
	}
	return nil
}
