//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/weirhq/weir/check"
)

// tableWidth is the width with which terminals start.
const tableWidth = 80

func writeJSON(w io.Writer, results []check.Result) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(results)
}

// writeTable writes a row for each upstream, and below a paragraph for each with its
// figures, errors and remarks. No line is longer than tableWidth.
func writeTable(w io.Writer, results []check.Result) error {
	rows := [][]string{{"BLOCK", "UPSTREAM", "STATUS", "TIME", "LOGIN", "HEAD", "RANGE"}}
	for _, r := range results {
		rows = append(rows, cells(r))
	}
	var b strings.Builder
	writeRows(&b, rows)
	for _, r := range results {
		writeDetails(&b, r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func cells(r check.Result) []string {
	blocks := strings.Join(r.Blocks, ", ")
	// Cells of an upstream that was not contacted would look like failures.
	if r.Status == check.StatusSkipped {
		return []string{blocks, r.Upstream, r.Status, "", "", "", ""}
	}
	elapsed, login := "-", r.Authentication
	if r.Reachable {
		elapsed = fmt.Sprintf("%.0f ms", *r.LatencyMS)
	}
	switch login {
	case check.LoginUnknown:
		login = "?"
	case check.LoginAnonymous:
		login = "none"
	}
	return []string{blocks, r.Upstream, r.Status, elapsed, login, yesNo(r.Head), yesNo(r.Range)}
}

// writeRows writes rows with aligned columns. The first two columns have names, which
// are wrapped if a line would be too long.
func writeRows(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	left := tableWidth
	for _, width := range widths[2:] {
		left -= cellGap + width
	}
	left -= cellGap
	// A short column leaves its space to the other one.
	switch half := left / 2; {
	case widths[0]+widths[1] <= left:
	case widths[0] <= half:
		widths[1] = left - widths[0]
	case widths[1] <= half:
		widths[0] = left - widths[1]
	default:
		widths[0], widths[1] = half, left-half
	}
	for _, row := range rows {
		blocks, upstream := wrap(row[0], widths[0]), wrap(row[1], widths[1])
		for i := range max(len(blocks), len(upstream), 1) {
			line := []string{at(blocks, i), at(upstream, i)}
			if i == 0 {
				line = append(line, row[2:]...)
			}
			var text strings.Builder
			for n, cell := range line {
				fmt.Fprintf(&text, "%-*s", widths[n]+cellGap, cell)
			}
			b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
		}
	}
}

// writeDetails writes the paragraph of one upstream.
func writeDetails(b *strings.Builder, r check.Result) {
	b.WriteString("\n")
	indented(b, "", fmt.Sprintf("%s (%s):", r.Upstream, strings.Join(r.Keys, ", ")))
	if r.Status == check.StatusSkipped {
		indented(b, "  ", "not contacted: offline = true")
		return
	}
	asked := "asked only for the root of the API"
	if r.Image != "" {
		asked = "asked for " + r.Image
	}
	facts := []string{asked}
	if l := r.RateLimit; l != nil {
		facts = append(facts, fmt.Sprintf("rate limit: %d of %s left", l.Remaining, l))
	}
	if len(r.RedirectsTo) > 0 {
		facts = append(facts, "redirects to "+strings.Join(r.RedirectsTo, ", "))
	}
	if r.ClockWrong() {
		facts = append(facts, fmt.Sprintf("clock: %+d s", *r.ClockSkewSeconds))
	}
	for _, fact := range facts {
		indented(b, "  ", fact)
	}
	for _, text := range r.Errors {
		indented(b, "  ", "error: "+text)
	}
	for _, text := range r.Remarks {
		indented(b, "  ", "note: "+text)
	}
}

// indented writes a text, wrapped, with an indent before its first line and four
// spaces before the others.
func indented(b *strings.Builder, indent, text string) {
	for i, line := range wrap(text, tableWidth-len("    ")) {
		if i > 0 {
			indent = "    "
		}
		b.WriteString(indent + line + "\n")
	}
}

// wrap breaks a text into lines of at most width bytes: at blanks, or inside of a word
// that is longer than a line, then after a dot, slash, colon, comma or hyphen if one
// is in the second half of the line.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
		for len(line) > width {
			cut := strings.LastIndexAny(line[:width], "./:,-") + 1
			if cut <= width/2 {
				cut = width
			}
			for cut > 1 && !utf8.RuneStart(line[cut]) {
				cut-- // a letter stays whole
			}
			lines, line = append(lines, line[:cut]), line[cut:]
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
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
