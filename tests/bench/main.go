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
	only := flag.String("only", "", "measure one part only: cold, many, herd, warm, manifests, start, logins, ranges, replicas, bucket, tag, tags, small, restart, pages, or tls beside nginx")
	against := flag.String("against", "", "an older binary, which -only manifests, -only start and -only tag measure by turns with this tree")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *dir, *only, *against, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, dir, only, against string, out io.Writer) error {
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
	plain := []measure{coldBlob, warmBlob, warmManifests, loggedInManifests, manyColdBlobs, herd, rangeThenWhole, coldImage, bucketCosts, cachedTags}
	downloads := map[string]measure{"cold": coldBlob, "many": manyColdBlobs, "herd": herd, "warm": warmBlob, "ranges": rangeThenWhole}
	switch only {
	case "":
	case "cold", "many", "herd", "warm", "ranges":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{downloads[only]}, out)
	case "manifests":
		rows, err := manifestsAgainst(ctx, dir, up, against)
		write(out, rows)
		return err
	case "tag":
		rows, err := busyTagAgainst(ctx, dir, against)
		write(out, rows)
		return err
	case "start":
		rows, err := startsAgainst(ctx, dir, up, against)
		write(out, rows)
		return err
	case "logins":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{loggedInManifests}, out)
	case "replicas":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{coldImage}, out)
	case "bucket":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{bucketCosts}, out)
	case "small":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{smallObjects}, out)
	case "pages":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{pagesOfMany}, out)
	case "restart":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{restart}, out)
	case "tags":
		return benchPlain(ctx, filepath.Join(dir, "plain"), up, []measure{cachedTags}, out)
	case "tls":
		plain = nil
	default:
		return fmt.Errorf("-only knows cold, many, herd, warm, manifests, start, logins, ranges, replicas, bucket, tag, tags, small, restart, pages and tls, and not %q", only)
	}
	if err := benchPlain(ctx, filepath.Join(dir, "plain"), up, plain, out); err != nil {
		return err
	}
	rows, err := warmBlobOverTLS(ctx, filepath.Join(dir, "tls"), up)
	write(out, rows)
	return err
}

// measure returns rows of the table.
type measure func(context.Context, *mirror, *upstream) ([]row, error)

// benchPlain measures a mirror without TLS.
func benchPlain(ctx context.Context, dir string, up *upstream, measures []measure, out io.Writer) error {
	if len(measures) == 0 {
		return nil
	}
	m, err := startMirror(ctx, dir, up.url, "")
	if err != nil {
		return err
	}
	defer m.stop()
	for _, measure := range measures {
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
