package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/oci"
)

func rmCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	var isSure bool
	cmd := &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images from the cache of a running mirror",
		Long: `Remove images from the cache of a running mirror: a tag, a digest or, for a name with
neither, a whole repository. Content that nothing else refers to is removed with them.
The registries keep their images, and the next pull fetches them again.

The command asks before it removes anything. Without a terminal, it needs --yes. A
failure does not stop the removal of the other images; the exit code is then 1.

Without access rules, only clients on the mirror's own machine may do this. With rules,
the action ui-change decides.
` + besideMirror,
		Example: "  weir rm docker.io/library/alpine:3.19\n  weir rm --yes ghcr.io/org/app",
		Args:    arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			terminal := terminalOf(cmd.InOrStdin())
			if !isSure && terminal == nil {
				return errors.New("rm asks before it removes anything, but there is no terminal. Confirm with --yes")
			}
			m, err := flags.connect(*paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			images, err := m.selections(args)
			if err != nil {
				return err
			}
			// A signal ends the question, so it comes before run, which waits for the work.
			if !isSure && !m.confirm(cmd.Context(), images, terminal, cmd.ErrOrStderr()) {
				return failure{exitFailed, errors.New("nothing was removed")}
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				return m.each(ctx, images, cmd.ErrOrStderr(), func(image string) error {
					removed, err := m.Remove(ctx, image)
					if err == nil {
						fmt.Fprintln(cmd.OutOrStdout(), removedLine(image, removed))
					}
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVar(&isSure, "yes", false, "do not ask for confirmation")
	flags.flags(cmd)
	cmd.ValidArgsFunction = flags.completeImages(paths)
	return cmd
}

// terminalOf returns the terminal that is the input; nil: it is none.
func terminalOf(in io.Reader) *os.File {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// selections reads images of which each may be a whole repository. Each is there once.
func (m *mirror) selections(args []string) (images []string, err error) {
	seen := make(map[string]bool)
	for _, text := range args {
		text = withoutHost(text, m.url.Host)
		image, err := oci.ParseImage(text)
		if err != nil {
			return nil, err
		}
		if text != image.Name { // else the tag would be latest
			text = image.String()
		}
		if !seen[text] {
			seen[text], images = true, append(images, text)
		}
	}
	return images, nil
}

// isWhole reports whether an image of selections is a whole repository.
func isWhole(image string) bool {
	parsed, err := oci.ParseImage(image)
	return err == nil && parsed.Name == image
}

// confirm asks at a terminal whether images shall be removed.
func (m *mirror) confirm(ctx context.Context, images []string, terminal io.Reader, prompt io.Writer) bool {
	fmt.Fprintln(prompt, "These images will be removed from the cache:")
	for _, image := range images {
		line := "  " + image
		if isWhole(image) {
			line += ": the whole repository"
			// The question is asked without the figures, too.
			if r, err := m.Repository(ctx, image); err == nil {
				line = fmt.Sprintf("  %s: the whole repository, %s, %s", printable.Line(r.Name, maxCell), quantity(r.Tags, "tag"), units.IEC(r.Size))
			}
		}
		fmt.Fprintln(prompt, line)
	}
	fmt.Fprint(prompt, "Remove them? [y/N] ")
	const longest = 64 // yes, and blanks
	answer, err := bufio.NewReader(io.LimitReader(terminal, longest)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(prompt) // the line of the question has not ended
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// each does some work for each image, and prints its failures. It returns an error if there are any.
func (m *mirror) each(ctx context.Context, images []string, stderr io.Writer, work func(image string) error) error {
	failed := 0
	for _, image := range images {
		err := work(image)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return err
		case len(images) == 1:
			return fmt.Errorf("%s: %w", image, err)
		}
		fmt.Fprintf(stderr, "failed %s: %v\n", image, m.explain(err))
		failed++
	}
	if failed > 0 {
		return fmt.Errorf("failed images: %d of %d", failed, len(images))
	}
	return nil
}

func removedLine(image string, r api.RemovedDocument) string {
	return fmt.Sprintf("removed %s: %s, %s, %s, %s", image, quantity(len(r.Tags), "tag"), quantity(r.Manifests, "manifest"), quantity(r.Contents, "object"), units.IEC(r.Bytes))
}

// quantity returns a number and its noun, such as "1 tag" and "1,200 tags".
func quantity(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return humanize.Comma(int64(n)) + " " + noun
}
