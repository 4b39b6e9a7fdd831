package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/units"
)

func pinCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	cmd := &cobra.Command{
		Use:   "pin [IMAGE...]",
		Short: "Protect images from eviction, or list the pinned images",
		Long: `Protect images from eviction until weir unpin, together with everything they refer to
that is cached. A pin of a tag follows the tag when it moves. Pinned images may take up
to half of max_size. Without an IMAGE, list the pins.

Without access rules, only clients on the mirror's own machine may pin. With rules, the
action ui-change decides.
` + besideMirror,
		Example: "  weir pin docker.io/library/alpine:3.20\n  weir pin",
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.pins(cmd, *paths, args, func(ctx context.Context, m *mirror, images []string) error {
				if len(images) == 0 {
					return listPins(ctx, m, cmd.OutOrStdout())
				}
				return m.each(ctx, images, cmd.ErrOrStderr(), func(image string) error {
					pin, err := m.Pin(ctx, image)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "pinned %s: %s\n", printable.Line(pin.Image, maxCell), units.IEC(pin.Bytes))
					}
					return err
				})
			})
		},
	}
	flags.flags(cmd)
	cmd.ValidArgsFunction = flags.completeImages(paths)
	return cmd
}

func unpinCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	cmd := &cobra.Command{
		Use:   "unpin IMAGE...",
		Short: "Remove the protection of pinned images",
		Long: `Remove the pins of images, so that they can be evicted again. Their content stays until
space is needed. weir pin lists the pins.
` + besideMirror,
		Example: "  weir unpin docker.io/library/alpine:3.20",
		Args:    arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.pins(cmd, *paths, args, func(ctx context.Context, m *mirror, images []string) error {
				return m.each(ctx, images, cmd.ErrOrStderr(), func(image string) error {
					pin, err := m.Unpin(ctx, image)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "unpinned %s: %s\n", printable.Line(pin.Image, maxCell), units.IEC(pin.Bytes))
					}
					return err
				})
			})
		},
	}
	flags.flags(cmd)
	cmd.ValidArgsFunction = flags.completeImages(paths)
	return cmd
}

// pins does some work on images with the mirror that the flags name.
func (f apiFlags) pins(cmd *cobra.Command, configs, args []string, work func(context.Context, *mirror, []string) error) error {
	m, err := f.connect(configs, cmd.InOrStdin())
	if err != nil {
		return err
	}
	var images []string
	for _, text := range args {
		image, err := m.image(text)
		if err != nil {
			return err
		}
		images = append(images, image.String())
	}
	return m.run(cmd.Context(), func(ctx context.Context) error { return work(ctx, m, images) })
}

// listPins prints the pins, and how much of their share of the store they take.
func listPins(ctx context.Context, m *mirror, stdout io.Writer) error {
	document, err := m.Pins(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"IMAGE", "DIGEST", "SIZE", "SINCE", "BY"}}
	for _, p := range document.Pins {
		rows = append(rows, []string{p.Image, brief(p.Digest), units.IEC(p.Bytes), ago(p.Since), p.By})
	}
	if err := writeCells(stdout, rows); err != nil {
		return err
	}
	limit := ""
	if document.Limit > 0 {
		limit = " of " + units.IEC(document.Limit)
	}
	_, err = fmt.Fprintf(stdout, "\n%s: %s%s\n", quantity(len(document.Pins), "pin"), units.IEC(document.Bytes), limit)
	return err
}
