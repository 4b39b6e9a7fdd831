package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == filesMarker {
		fail(serveFiles(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 4 && os.Args[1] == memoryMarker {
		fail(serveMemory(os.Args[2], os.Args[3]))
	}
	dir := flag.String("dir", os.TempDir(), "where servers keep their data during the run; about 16 GiB")
	rounds := flag.Int("rounds", 3, "how often each server runs each workload")
	only := flag.String("only", "", "run the `WORKLOADS` of these names, with commas between them")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage, at the top of the repository: go run ./tests/compare [flags]\n\nWorkloads:")
		for _, w := range workloads {
			fmt.Fprintf(os.Stderr, "  %-10s %s\n", w.name, w.metrics[0].label)
		}
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := compare(ctx, *dir, *rounds, *only, os.Stdout)
	stop()
	fail(err)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func compare(ctx context.Context, dir string, rounds int, only string, out io.Writer) error {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	if dir, err = os.MkdirTemp(dir, "weir-compare-"); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds, err := kinds(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %d processors, %d rounds, %s\n\n| measurement | %s |\n|---|%s\n", runtime.Version(), runtime.NumCPU(), rounds,
		time.Now().UTC().Format(time.DateOnly), strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, w := range chosen {
		figures, err := measure(ctx, w, kinds, dir, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		figures.write(out)
	}
	return nil
}

func choose(only string) ([]*workload, error) {
	if only == "" {
		return workloads, nil
	}
	var chosen []*workload
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(workloads, func(w *workload) bool { return w.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no workload %q; -help lists them", name)
		}
		chosen = append(chosen, workloads[i])
	}
	return chosen, nil
}

// measure runs a workload on all of its servers by turns.
func measure(ctx context.Context, w *workload, kinds map[string]*kind, dir string, rounds int) (*figures, error) {
	up, err := startUpstream()
	if err != nil {
		return nil, err
	}
	defer up.close()
	all := &figures{w, make(map[string][][]float64)}
	for round := range rounds {
		for _, name := range w.servers {
			l := &lab{kinds[name], up, filepath.Join(dir, fmt.Sprintf("%s-%d-%d", w.name, round, slices.Index(columns, name)))}
			values, err := w.run(ctx, l)
			if err = errors.Join(err, os.RemoveAll(l.dir)); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all.rounds[name] = append(all.rounds[name], values)
		}
	}
	return all, nil
}

// figures are the values of a workload, by server and round, in the order of its metrics.
type figures struct {
	of     *workload
	rounds map[string][][]float64
}

func (f *figures) write(out io.Writer) {
	for i, m := range f.of.metrics {
		fmt.Fprintf(out, "| %s |", m.label)
		for _, name := range columns {
			text := "–"
			if len(f.rounds[name]) > 0 {
				text = fmt.Sprintf(m.format, f.median(i, name))
			}
			if text == "NaN" {
				text = "fails"
			}
			fmt.Fprintf(out, " %s |", text)
		}
		fmt.Fprintln(out)
	}
}

// median returns the median of one metric, as a ratio to the server that the metric names.
func (f *figures) median(metric int, name string) float64 {
	values := make([]float64, 0, len(f.rounds[name]))
	for round, row := range f.rounds[name] {
		value := row[metric]
		if per := f.of.metrics[metric].per; per != "" {
			value /= f.rounds[per][round][metric]
		}
		values = append(values, value)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
