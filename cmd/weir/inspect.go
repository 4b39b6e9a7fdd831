package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/oci"
)

func inspectCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	var output string
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show a cached image down to its layers",
		Long: `Show an image as a running mirror has cached it: its manifest, platforms and layers,
and which of them are cached; its pulls and last clients; the manifests that the tag
named before; its labels; its referrers, such as signatures. No upstream is contacted.

Write an IMAGE as in a pull from the mirror. Without a tag or digest, the tag is latest.
` + besideMirror,
		Example: "  weir inspect docker.io/library/alpine:3.20\n  weir inspect ghcr.io/org/app@sha256:... -o json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != outputJSON {
				return fmt.Errorf("--output is %q. It must be json", output)
			}
			m, err := flags.connect(*paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			image, err := m.image(args[0])
			if err != nil {
				return err
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				found, err := inspect(ctx, m, image)
				if err != nil {
					return notCached(ctx, m, err, image)
				}
				if output == outputJSON {
					return writeDocument(cmd.OutOrStdout(), found)
				}
				return found.write(cmd.OutOrStdout())
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output `FORMAT`: json")
	completeWords(cmd, "output", outputJSON)
	flags.flags(cmd)
	cmd.ValidArgsFunction = flags.completeImages(paths)
	return cmd
}

// notCached adds to an error about an image how to find others. The mirror may know its repository by
// a longer name, such as docker.io/library/alpine for alpine.
func notCached(ctx context.Context, m *mirror, err error, image oci.Image) error {
	if !isGone(err) {
		return fmt.Errorf("%s: %w", image, err)
	}
	known, _ := m.Repositories(ctx, image.Name) // the first error says more
	for _, repository := range known {
		if strings.HasSuffix("/"+repository.Name, "/"+image.Name) {
			return fmt.Errorf("%s: %w. To list the cached tags, run weir ls --tags %s", image, err, repository.Name)
		}
	}
	return fmt.Errorf("%s: %w. No repository of this name is cached: to list those that are, run weir ls", image, err)
}

// maxPlatforms is how many manifests of an index are asked for. The largest indexes of today have
// about 30.
const maxPlatforms = 100

// manifestReport is a manifest and, if it is an index, its cached manifests.
type manifestReport struct {
	api.ManifestDocument
	Platforms []api.ManifestDocument `json:"platforms,omitempty"`
}

// imageReport is everything that the mirror reports about an image.
type imageReport struct {
	Image    string                `json:"image"`
	Tag      *api.TagDocument      `json:"tag,omitempty"`
	Manifest *manifestReport       `json:"manifest,omitempty"` // nil: it is not cached
	History  []api.HistoryManifest `json:"history,omitempty"`
}

// inspect asks about an image.
func inspect(ctx context.Context, m *mirror, image oci.Image) (*imageReport, error) {
	found := &imageReport{}
	dgst := image.Reference.Digest()
	if image.Reference.IsTag() {
		tag, err := m.Tag(ctx, image.Name, image.Reference.Tag())
		if err != nil {
			return nil, err
		}
		history, err := m.History(ctx, image.Name, image.Reference.Tag())
		if err != nil {
			return nil, err
		}
		found.Tag, found.History, dgst = &tag, history.History, tag.Digest
		found.Image = tag.Name + ":" + tag.Tag
	}
	manifest, err := inspectManifest(ctx, m, image.Name, dgst)
	// The tag is known, and its manifest was evicted.
	if isGone(err) && found.Tag != nil {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	found.Manifest = manifest
	if found.Tag == nil {
		found.Image = manifest.Name + "@" + manifest.Digest.String()
	}
	return found, nil
}

// inspectManifest asks about a manifest and, if it is an index, about its cached manifests.
func inspectManifest(ctx context.Context, m *mirror, name string, dgst digest.Digest) (*manifestReport, error) {
	document, err := m.Manifest(ctx, name, dgst)
	if err != nil {
		return nil, err
	}
	report := &manifestReport{ManifestDocument: document}
	for _, part := range document.Manifests {
		if !part.Cached || len(report.Platforms) == maxPlatforms {
			continue
		}
		child, err := m.Manifest(ctx, name, part.Digest)
		if isGone(err) {
			continue // evicted meanwhile
		}
		if err != nil {
			return nil, err
		}
		report.Platforms = append(report.Platforms, child)
	}
	return report, nil
}

// child returns the document about a manifest of the index; nil: it is not cached.
func (r *manifestReport) child(dgst digest.Digest) *api.ManifestDocument {
	at := slices.IndexFunc(r.Platforms, func(d api.ManifestDocument) bool { return d.Digest == dgst })
	if at < 0 {
		return nil
	}
	return &r.Platforms[at]
}

// write writes the report for people.
func (r *imageReport) write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(printable.Line(r.Image, maxCell) + "\n")
	for _, section := range r.sections() {
		if section.title != "" {
			b.WriteString("\n" + printable.Line(section.title, maxCell) + "\n")
		}
		if err := writeCells(&b, section.rows); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// section is a part of a report: rows of cells below a title.
type section struct {
	title string
	rows  [][]string
}

func (r *imageReport) sections() []section {
	all := []section{{"", r.facts()}}
	if m := r.Manifest; m != nil {
		all = append(all, m.sections()...)
	}
	// The first one is what the tag names now.
	if len(r.History) > 0 {
		rows := [][]string{{"  DIGEST", "FIRST SEEN", "LAST SEEN"}}
		for _, h := range r.History {
			rows = append(rows, []string{"  " + brief(h.Digest), moment(h.First), moment(h.Last)})
		}
		all = append(all, section{"Manifests that the tag named before:", rows})
	}
	return all
}

// facts are the rows about the tag and its manifest.
func (r *imageReport) facts() (rows [][]string) {
	add := func(name, value string) { rows = append(rows, []string{"  " + name, value}) }
	pulls := api.PullsDocument{}
	if t := r.Tag; t != nil {
		add("digest", t.Digest.String())
		add("type", t.MediaType)
		add("checked", moment(t.Checked))
		add("since", moment(t.Since))
		pulls = t.Pulls
	}
	m := r.Manifest
	if m == nil {
		add("cached", "no: the next pull fetches it")
	} else {
		if r.Tag == nil {
			add("digest", m.Digest.String())
			add("type", m.MediaType)
			pulls = m.Pulls
		}
		add("fetched", moment(m.Since))
		add("size", m.sizeText())
		add("cached", m.cachedParts())
		if m.Image != nil {
			add("platform", platformText(&m.Image.Platform))
			add("created", moment(m.Image.Created))
		}
	}
	add("pulls", pullsText(pulls))
	if len(pulls.Clients) > 0 {
		var clients []string
		for _, c := range pulls.Clients {
			clients = append(clients, printable.Line(c.Client, maxCell/len(pulls.Clients))+" ("+ago(c.Last)+")")
		}
		add("clients", strings.Join(clients, ", "))
	}
	return rows
}

func pullsText(p api.PullsDocument) string {
	if p.Total == 0 {
		return "0"
	}
	return humanize.Comma(p.Total) + ", last " + moment(p.Last)
}

// sizeText is the size of the image, and how much of an index it leaves out.
func (r *manifestReport) sizeText() string {
	text := units.IEC(r.Size)
	if r.Uncounted > 0 {
		text += fmt.Sprintf(", without %s of which the size is not known", english.Plural(r.Uncounted, "manifest", ""))
	}
	return text
}

// cachedParts describes how much of a manifest is cached.
func (r *manifestReport) cachedParts() string {
	if !r.Cached {
		return "no: the next pull fetches it"
	}
	parts := slices.Concat(r.Manifests, r.Layers)
	if r.Config != nil {
		parts = append(parts, *r.Config)
	}
	n := 0
	for _, part := range parts {
		if part.Cached {
			n++
		}
	}
	return fmt.Sprintf("the manifest, and %d of its %d parts", n, len(parts))
}

func (r *manifestReport) sections() (all []section) {
	if len(r.Manifests) > 0 {
		rows := [][]string{{"  PLATFORM", "DIGEST", "SIZE", "LAYERS", "PULLS", "CACHED"}}
		for _, part := range r.Manifests {
			row := []string{"  " + platformText(part.Platform), brief(part.Digest), "-", "-", "-", cachedText(part.Cached)}
			if child := r.child(part.Digest); child != nil {
				row[2], row[3], row[4] = units.IEC(child.Size), fmt.Sprint(len(child.Layers)), humanize.Comma(child.Pulls.Total)
			}
			rows = append(rows, row)
		}
		all = append(all, section{"Manifests:", rows})
	}
	all = append(all, layersOf("Layers:", r.ManifestDocument)...)
	for _, child := range r.Platforms {
		title := "Layers of " + brief(child.Digest) + ":"
		if child.Image != nil {
			title = "Layers of " + brief(child.Digest) + ", " + platformText(&child.Image.Platform) + ":"
		}
		all = append(all, layersOf(title, child)...)
	}
	if r.Image != nil && len(r.Image.Labels) > 0 {
		var rows [][]string
		for _, name := range slices.Sorted(maps.Keys(r.Image.Labels)) {
			rows = append(rows, []string{"  " + name, r.Image.Labels[name]})
		}
		all = append(all, section{"Labels:", rows})
	}
	if len(r.Referrers) > 0 {
		rows := [][]string{{"  TYPE", "DIGEST", "SIZE", "CACHED"}}
		for _, part := range r.Referrers {
			rows = append(rows, []string{"  " + printable.Line(part.ArtifactType, maxCell), brief(part.Digest), units.IEC(part.Size), cachedText(part.Cached)})
		}
		all = append(all, section{"Referrers:", rows})
	}
	if r.Omitted > 0 {
		all = append(all, section{fmt.Sprintf("%s more parts, referrers and labels are not shown.", humanize.Comma(int64(r.Omitted))), nil})
	}
	return all
}

// layersOf is the section of the layers of a manifest, or nothing if it has none.
func layersOf(title string, m api.ManifestDocument) []section {
	if len(m.Layers) == 0 {
		return nil
	}
	rows := [][]string{{"  DIGEST", "SIZE", "CACHED", "TYPE"}}
	for _, part := range m.Layers {
		rows = append(rows, []string{"  " + brief(part.Digest), units.IEC(part.Size), cachedText(part.Cached), part.MediaType})
	}
	return []section{{title, rows}}
}
