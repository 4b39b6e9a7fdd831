package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
)

// statsInterval is how often the screen asks the mirror: often enough to see a download move.
const statsInterval = 2 * time.Second

func statsCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	var output string
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show the traffic, store, upstreams and downloads of a running mirror",
		Long: `Show the state of a running mirror: whether it is ready and, if not, why; the requests
of the last minute, hour, day and 30 days, the share served from the cache, and the
bytes served, fetched and saved; the store; the upstreams with their cooldowns and rate
limits; the running downloads.

On a terminal, the output is updated until Ctrl-C. Otherwise it is printed once.
` + besideMirror,
		Example: "  weir stats\n  weir stats -o json",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != outputJSON {
				return fmt.Errorf("--output is %q. It must be json", output)
			}
			m, err := flags.connect(*paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				return showStats(ctx, m, output, cmd.OutOrStdout())
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output `FORMAT`: json")
	completeWords(cmd, "output", outputJSON)
	flags.flags(cmd)
	return cmd
}

// stats is what a mirror does at a time.
type stats struct {
	Status    api.Status            `json:"status"`
	Downloads api.DownloadsDocument `json:"downloads"`
	at        time.Time
}

func readStats(ctx context.Context, m *mirror) (now stats, err error) {
	if now.Status, err = m.Status(ctx); err != nil {
		return now, err
	}
	now.Downloads, err = m.Downloads(ctx)
	now.at = time.Now()
	return now, err
}

func showStats(ctx context.Context, m *mirror, output string, stdout io.Writer) error {
	now, err := readStats(ctx, m)
	switch {
	case err != nil:
		return err
	case output == outputJSON:
		return writeDocument(stdout, now)
	}
	if f, ok := stdout.(*os.File); ok && isTerminal(stdout) {
		return followStats(ctx, m, f, now)
	}
	text, err := now.text(m.url.String(), stats{})
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

const (
	// enterScreen shows another screen of the terminal, without a cursor, that cuts long lines.
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	// leaveScreen shows the terminal as it was before enterScreen.
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// followStats shows what the mirror does until the context ends, which is not a failure.
func followStats(ctx context.Context, m *mirror, terminal *os.File, now stats) error {
	fmt.Fprint(terminal, enterScreen)
	defer fmt.Fprint(terminal, leaveScreen)
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	before, trouble := stats{}, ""
	for {
		text, err := now.text(m.url.String(), before)
		if err != nil {
			return err
		}
		draw(terminal, trouble+text)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, err := readStats(ctx, m)
		switch {
		case err == nil:
			before, now, trouble = now, next, ""
		case ctx.Err() == nil: // the figures stay, with the reason
			trouble = printable.Line(fmt.Sprintf("These figures are from %s, because the mirror does not answer: %v", now.at.Format(time.TimeOnly), m.explain(err)), maxCell) + "\n\n"
		}
	}
}

// draw writes the lines of a text that fit onto a terminal over its old ones.
func draw(terminal *os.File, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if _, height, err := term.GetSize(int(terminal.Fd())); err == nil && height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	fmt.Fprint(terminal, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
}

// text is what people see. The rates of downloads are those since an earlier time, if that is not zero.
func (s stats) text(url string, before stats) (string, error) {
	var b strings.Builder
	sections := []section{{"", s.facts(url)}}
	if len(s.Status.Problems) > 0 {
		var rows [][]string
		for _, p := range s.Status.Problems {
			rows = append(rows, []string{"  " + printable.Line(p.Summary, maxCell) + ". " + p.Remedy})
		}
		sections = append(sections, section{"Problems:", rows})
	}
	sections = append(sections, section{"Traffic:", s.traffic()})
	if len(s.Status.Upstreams) > 0 {
		sections = append(sections, section{"Upstreams:", s.upstreams()})
	}
	if len(s.Downloads.Downloads) > 0 {
		sections = append(sections, section{"Downloads:", s.downloads(before)})
	}
	for i, one := range sections {
		if i > 0 {
			b.WriteString("\n" + one.title + "\n")
		}
		if err := writeCells(&b, one.rows); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// facts are the rows about the mirror and its store.
func (s stats) facts(url string) [][]string {
	ready := "ready"
	if !s.Status.Ready {
		ready = "not ready"
	}
	store := s.Status.Store
	content := units.IEC(store.Bytes)
	if store.Limit > 0 {
		content += " of " + units.IEC(store.Limit)
	}
	content += " in " + humanize.Comma(store.Objects) + " objects"
	if store.Free != nil {
		content += ", " + units.IEC(*store.Free) + " free"
	}
	if store.EvictionAge != nil {
		age := time.Duration(*store.EvictionAge * float64(time.Second))
		content += ", evicted content had been unused for " + units.Duration(age.Round(time.Minute))
	}
	return [][]string{
		{url, ready + ", weir " + s.Status.Version + ", started " + ago(s.Status.Started)},
		{"store (" + s.Status.Store.Kind + ")", content},
	}
}

func (s stats) traffic() [][]string {
	rows := [][]string{{"  LAST", "REQUESTS", "CACHED", "SERVED", "FETCHED", "SAVED", "RATE"}}
	t := s.Status.Traffic
	for _, one := range []struct {
		name   string
		period time.Duration
		api.Amounts
	}{{"minute", time.Minute, t.Now}, {"hour", time.Hour, t.Hour}, {"day", 24 * time.Hour, t.Day}, {"30 days", 30 * 24 * time.Hour, t.Month}} {
		ratio := "-"
		if one.Requests > 0 {
			ratio = fmt.Sprintf("%.0f%%", 100*one.HitRatio)
		}
		rows = append(rows, []string{
			"  " + one.name, humanize.Comma(one.Requests), ratio, units.IEC(one.Served), units.IEC(one.Fetched), units.IEC(one.Saved), units.Rate(one.Served, one.period),
		})
	}
	return rows
}

func (s stats) upstreams() [][]string {
	rows := [][]string{{"  NAME", "STATE", "REQUESTS", "ERRORS", "LATENCY", "RATE LIMIT"}}
	for _, u := range s.Status.Upstreams {
		state, latency, limit := u.State, "-", "-"
		if !u.CooldownUntil.IsZero() {
			state += " until " + u.CooldownUntil.UTC().Format(time.TimeOnly) + " UTC"
		}
		if u.Latency > 0 {
			latency = fmt.Sprintf("%.0f ms", 1000*u.Latency)
		}
		if u.RateLimit != nil {
			limit = fmt.Sprintf("%d of %d left", u.RateLimit.Remaining, u.RateLimit.Limit)
		}
		rows = append(rows, []string{"  " + u.Name, state, humanize.Comma(u.Requests), errorsText(u.Errors), latency, limit})
	}
	return rows
}

// errorsText returns the number of errors and their classes.
func errorsText(classes map[string]int64) string {
	sum := int64(0)
	var parts []string
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		if n := classes[class]; n > 0 {
			sum += n
			parts = append(parts, humanize.Comma(n)+" "+class)
		}
	}
	if sum == 0 {
		return "0"
	}
	return humanize.Comma(sum) + " (" + strings.Join(parts, ", ") + ")"
}

func (s stats) downloads(before stats) [][]string {
	rows := [][]string{{"  REPOSITORY", "CONTENT", "FROM", "DONE", "RATE", "READERS"}}
	for _, d := range s.Downloads.Downloads {
		done, rate := units.IEC(d.Offset), "-"
		if d.Size != nil {
			done += " / " + units.IEC(*d.Size)
		}
		same := func(old api.DownloadDocument) bool {
			return old.Digest == d.Digest && old.Block == d.Block && old.Started.Equal(d.Started)
		}
		if i := slices.IndexFunc(before.Downloads.Downloads, same); i >= 0 {
			rate = units.Rate(max(0, d.Offset-before.Downloads.Downloads[i].Offset), s.at.Sub(before.at))
		}
		rows = append(rows, []string{"  " + d.Name, brief(d.Digest), d.Source, done, rate, strconv.Itoa(d.Readers)})
	}
	if n := s.Downloads.Omitted; n > 0 {
		rows = append(rows, []string{"  and " + humanize.Comma(int64(n)) + " more"})
	}
	return rows
}
