package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/weirhq/weir/check"
)

func writeJSON(w io.Writer, results []check.Result) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(results)
}

// writeTable writes one line for each upstream, and the errors and remarks below.
func writeTable(w io.Writer, results []check.Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "UPSTREAM\tSTATUS\tREACHABLE\tLOGIN\tHEAD\tRANGE\tRATE LIMIT\tREDIRECTS TO\tCLOCK\tASKED FOR")
	for _, r := range results {
		fmt.Fprintln(table, strings.Join(cells(r), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for i, line := range append(r.Errors, r.Remarks...) {
			kind := "error"
			if i >= len(r.Errors) {
				kind = "remark"
			}
			if _, err := fmt.Fprintf(w, "\n%s: %s (%s):\n  %s\n", kind, r.Upstream, strings.Join(r.Keys, ", "), line); err != nil {
				return err
			}
		}
	}
	return nil
}

func cells(r check.Result) []string {
	// Cells of an upstream that was not contacted would look like failures.
	if r.Status == check.StatusSkipped {
		return []string{r.Upstream, r.Status, "", "", "", "", "", "", "", "nothing: offline = true"}
	}
	reachable, limit, clock := "no", "-", "?"
	if r.Reachable {
		reachable = fmt.Sprintf("%.0f ms", *r.LatencyMS)
	} else {
		limit = "?"
	}
	// Without a limit the cell is "-" if the upstream was reached, since it
	// then has none, and "?" if it was not.
	if l := r.RateLimit; l != nil {
		limit = fmt.Sprintf("%d of %s left", l.Remaining, l)
	}
	switch {
	case r.ClockWrong():
		clock = fmt.Sprintf("%+d s", *r.ClockSkewSeconds)
	case r.ClockSkewSeconds != nil:
		clock = "ok"
	}
	login := r.Authentication
	if login == check.LoginUnknown {
		login = "?"
	}
	return []string{
		r.Upstream, r.Status, reachable, login, yesNo(r.Head), yesNo(r.Range), limit,
		cmp.Or(strings.Join(r.RedirectsTo, " "), "-"), clock, cmp.Or(r.Image, "/v2/"),
	}
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return "yes"
	default:
		return "no"
	}
}
