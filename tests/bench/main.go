// Command bench measures a real mirror from outside: it builds and runs the
// binary, plays its upstream and its clients on the loopback interface, and
// prints a table. The mirror's processor time and memory are the kernel's
// account of its process; upstream and clients share the machine with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"
)

// row is one line of the table.
type row struct{ label, figure string }

func main() {
	dir := flag.String("dir", os.TempDir(), "where the mirror keeps its data during the run; about 8 GiB")
	onlyTLS := flag.Bool("tls", false, "only compare with nginx over TLS")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *dir, *onlyTLS, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, dir string, onlyTLS bool, out io.Writer) error {
	dir, err := os.MkdirTemp(dir, "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	up, err := startUpstream()
	if err != nil {
		return err
	}
	defer up.close()
	fmt.Fprintf(out, "%s, %d processors, %s\n\n| measurement | figure |\n|---|---|\n",
		runtime.Version(), runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
	if !onlyTLS {
		if err := benchPlain(ctx, filepath.Join(dir, "plain"), up, out); err != nil {
			return err
		}
	}
	rows, err := warmBlobOverTLS(ctx, filepath.Join(dir, "tls"), up)
	write(out, rows)
	return err
}

// benchPlain measures a mirror without TLS.
func benchPlain(ctx context.Context, dir string, up *upstream, out io.Writer) error {
	m, err := startMirror(ctx, dir, up.url, "")
	if err != nil {
		return err
	}
	defer m.stop()
	for _, measure := range []func(context.Context, *mirror, *upstream) ([]row, error){
		coldBlob, warmBlob, warmManifests, manyColdBlobs,
	} {
		rows, err := measure(ctx, m, up)
		if err != nil {
			return err
		}
		write(out, rows)
	}
	return nil
}

func write(out io.Writer, rows []row) {
	for _, r := range rows {
		fmt.Fprintf(out, "| %s | %s |\n", r.label, r.figure)
	}
}
