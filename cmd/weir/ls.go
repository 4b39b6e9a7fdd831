package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/api/client"
	"github.com/weirhq/weir/internal/units"
)

// The output formats of ls and inspect other than a table.
const (
	outputJSON = "json"
	outputWide = "wide"
)

// The orders of ls other than by name.
const (
	bySize  = "size"
	byPulls = "pulls"
	byLast  = "last"
)

// lsFlags are the flags of ls.
type lsFlags struct {
	api    apiFlags
	tags   bool
	sort   string
	output string
}

func lsCommand(paths *[]string) *cobra.Command {
	var flags lsFlags
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List what a running mirror has cached",
		Long: `List the repositories that a running mirror has cached, or those whose names begin
with PREFIX, with their tags, size, pulls by clients and last pull. A size counts each
blob and manifest once, including those that were evicted.

With --tags, list their tags, with the manifest that each names, the pulls by this tag
and the last pull. With -o wide, and for --sort size, also list the sizes of the images.
The size of an index is that of its cached platforms.
` + besideMirror,
		Example: "  weir ls --sort size\n  weir ls docker.io/library/ --tags --sort pulls",
		Args:    arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			m, err := flags.api.connect(*paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				return flags.list(ctx, m, withoutHost(at(args, 0), m.url.Host), cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	cmd.Flags().BoolVar(&flags.tags, "tags", false, "list the tags of the repositories")
	cmd.Flags().StringVar(&flags.sort, "sort", "", "sort by `FIGURE`: size, pulls or last; largest or latest first (default: by name)")
	cmd.Flags().StringVarP(&flags.output, "output", "o", "", "output `FORMAT`: wide, with more columns, or json")
	completeWords(cmd, "sort", bySize, byPulls, byLast)
	completeWords(cmd, "output", outputWide, outputJSON)
	flags.api.flags(cmd)
	cmd.ValidArgsFunction = flags.api.completeImages(paths)
	return cmd
}

func (f lsFlags) check() error {
	if !slices.Contains([]string{"", "name", bySize, byPulls, byLast}, f.sort) {
		return fmt.Errorf("--sort is %q. It must be name, size, pulls or last", f.sort)
	}
	if !slices.Contains([]string{"", outputWide, outputJSON}, f.output) {
		return fmt.Errorf("--output is %q. It must be wide or json", f.output)
	}
	return nil
}

func (f lsFlags) list(ctx context.Context, m *mirror, prefix string, stdout, stderr io.Writer) error {
	repositories, err := m.Repositories(ctx, prefix)
	if errors.Is(err, client.ErrTooMany) {
		return fmt.Errorf("%w. Use a longer PREFIX", err)
	}
	if err != nil {
		return err
	}
	repositories = slices.DeleteFunc(repositories, func(r api.NamedDocument) bool { return !strings.HasPrefix(r.Name, prefix) })
	if len(repositories) == 0 && f.output != outputJSON {
		fmt.Fprintln(stderr, nothingCached(prefix))
		return nil
	}
	if f.tags {
		return f.listTags(ctx, m, repositories, stdout)
	}
	sortBy(f.sort, repositories, func(r api.NamedDocument) figures { return figures{r.Size, r.Pulls, r.LastPull} })
	if f.output == outputJSON {
		return writeDocument(stdout, nonNil(repositories))
	}
	rows := [][]string{{"REPOSITORY", "TAGS", "SIZE", "PULLS", "LAST PULL"}}
	if f.output == outputWide {
		rows[0] = append(rows[0], "BLOCK")
	}
	for _, r := range repositories {
		row := []string{r.Name, humanize.Comma(int64(r.Tags)), units.IEC(r.Size), humanize.Comma(r.Pulls), ago(r.LastPull)}
		if f.output == outputWide {
			row = append(row, r.Block)
		}
		rows = append(rows, row)
	}
	return writeCells(stdout, rows)
}

func nothingCached(prefix string) string {
	if prefix == "" {
		return "nothing that this client may pull is cached yet"
	}
	return fmt.Sprintf("no cached repository that this client may pull begins with %q", prefix)
}

// nonNil returns a list that is [] in JSON if it is empty.
func nonNil[E any](list []E) []E { return append([]E{}, list...) }

// figures are the numbers that a list is sorted by.
type figures struct {
	size, pulls int64
	last        time.Time
}

// sortBy sorts a list by a figure, the largest or latest first. The others keep their order.
func sortBy[E any](figure string, list []E, of func(E) figures) {
	compare := map[string]func(a, b figures) int{
		bySize:  func(a, b figures) int { return cmp.Compare(b.size, a.size) },
		byPulls: func(a, b figures) int { return cmp.Compare(b.pulls, a.pulls) },
		byLast:  func(a, b figures) int { return b.last.Compare(a.last) },
	}[figure]
	if compare != nil {
		slices.SortStableFunc(list, func(a, b E) int { return compare(of(a), of(b)) })
	}
}

// listedTag is a tag in the list.
type listedTag struct {
	Name      string        `json:"name"`
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      *int64        `json:"size,omitempty"` // absent if it was not asked for, or is not known
	Pulls     int64         `json:"pulls"`
	LastPull  time.Time     `json:"lastPull,omitzero"`
	Checked   time.Time     `json:"checked,omitzero"`
	Since     time.Time     `json:"since,omitzero"`
}

func (t listedTag) figures() figures {
	f := figures{pulls: t.Pulls, last: t.LastPull}
	if t.Size != nil {
		f.size = *t.Size
	}
	return f
}

func (f lsFlags) listTags(ctx context.Context, m *mirror, repositories []api.NamedDocument, stdout io.Writer) error {
	isSized := f.sort == bySize || f.output == outputWide
	tags, err := tagsOf(ctx, m, repositories, isSized)
	if err != nil {
		return err
	}
	sortBy(f.sort, tags, listedTag.figures)
	if f.output == outputJSON {
		return writeDocument(stdout, nonNil(tags))
	}
	head := []string{"IMAGE", "DIGEST", "PULLS", "LAST PULL"}
	if isSized {
		head = append(head, "SIZE")
	}
	if f.output == outputWide {
		head = append(head, "CHECKED", "SINCE", "TYPE")
	}
	rows := [][]string{head}
	for _, t := range tags {
		row := []string{t.Name + ":" + t.Tag, brief(t.Digest), humanize.Comma(t.Pulls), ago(t.LastPull)}
		if f.output == outputWide {
			row[1] = t.Digest.String()
		}
		if isSized {
			row = append(row, sizeText(t.Size))
		}
		if f.output == outputWide {
			row = append(row, ago(t.Checked), ago(t.Since), t.MediaType)
		}
		rows = append(rows, row)
	}
	return writeCells(stdout, rows)
}

func sizeText(size *int64) string {
	if size == nil {
		return "-"
	}
	return units.IEC(*size)
}

// tagsOf asks about all tags of repositories, in their order. A tag that is gone meanwhile is left
// out.
func tagsOf(ctx context.Context, m *mirror, repositories []api.NamedDocument, isSized bool) ([]listedTag, error) {
	var all []listedTag
	for _, r := range repositories {
		names, sizes, err := m.tags(ctx, r.Name, isSized)
		// The rules may let a user pull an image without listing its tags.
		if isGone(err) || len(repositories) > 1 && statusOf(err) == http.StatusForbidden {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(all)+len(names) > client.MaxList {
			return nil, fmt.Errorf("%w: more than %d tags. Use a longer PREFIX", client.ErrTooMany, client.MaxList)
		}
		for _, tag := range names {
			one := listedTag{Name: r.Name, Tag: tag}
			if size, ok := sizes[tag]; ok {
				one.Size = &size
			}
			all = append(all, one)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(client.AtOnce)
	for i := range all {
		group.Go(func() error { return all[i].fill(ctx, m) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(t listedTag) bool { return t.Digest == "" }), nil
}

// tags returns the tags of a repository, and their sizes if they are wanted and known.
func (m *mirror) tags(ctx context.Context, name string, isSized bool) (tags []string, sizes map[string]int64, err error) {
	if isSized {
		return m.SizedTags(ctx, name)
	}
	tags, err = m.Tags(ctx, name)
	return tags, nil, err
}

// fill asks about the tag. The tag has no digest afterwards if it is gone.
func (t *listedTag) fill(ctx context.Context, m *mirror) error {
	known, err := m.Tag(ctx, t.Name, t.Tag)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	t.Digest, t.MediaType, t.Checked, t.Since = known.Digest, known.MediaType, known.Checked, known.Since
	t.Pulls, t.LastPull = known.Pulls.Total, known.Pulls.Last
	return nil
}

// isGone reports whether the mirror has no such repository, tag or manifest.
func isGone(err error) bool {
	refused, ok := errors.AsType[*client.RefusalError](err)
	return ok && refused.Status == http.StatusNotFound
}
