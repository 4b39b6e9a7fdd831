package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/printable"
)

const (
	// maxCell bounds a cell of a table, in bytes. Names of images fit in.
	maxCell = 512
	// cellGap separates two columns.
	cellGap = 2
)

// at returns an element of a list, or "" beyond its end.
func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// writeCells writes rows with aligned columns, for a terminal. Untrusted text in them becomes
// printable.
func writeCells(w io.Writer, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, cellGap, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable.Line(cell, maxCell)
		}
		// An empty last cell would leave blanks at the end of the line.
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// writeDocument writes a document as indented JSON. Characters that act on a terminal are escapes
// in it, which mean the same in JSON.
func writeDocument(w io.Writer, document any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		return err
	}
	var text strings.Builder
	for _, r := range b.String() {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			text.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&text, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&text, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// ago returns a time as people say it, or "-" if there is none.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return humanize.Time(t)
}

// moment returns a time in full, and how long ago it was.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateTime) + " UTC, " + humanize.Time(t)
}

// brief returns a digest with the first 12 digits of its hash, as clients show it.
func brief(d digest.Digest) string {
	const shown = 12
	algorithm, hash, _ := strings.Cut(d.String(), ":")
	return algorithm + ":" + hash[:min(len(hash), shown)]
}

// platformText returns a platform as --platform takes it, and "-" for none.
func platformText(p *ocispec.Platform) string {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return "-"
	}
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

func cachedText(isCached bool) string {
	if isCached {
		return "yes"
	}
	return "no"
}
