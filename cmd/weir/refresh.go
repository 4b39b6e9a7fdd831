package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func refreshCommand(paths *[]string) *cobra.Command {
	var flags apiFlags
	cmd := &cobra.Command{
		Use:   "refresh IMAGE",
		Short: "Make a running mirror check a tag at its upstream now",
		Long: `Make a running mirror check a tag at its upstream now, even if it was checked within
tag_ttl or is immutable, and print the result: the tag is unchanged, has moved, or was
fetched because it was not cached. "not stored" means that the mirror could not store
the manifest. If the upstream fails, the cached tag stays and the exit code is 1.

Without access rules, only clients on the mirror's own machine may do this. With rules,
the action ui-change decides.
` + besideMirror,
		Example: "  weir refresh docker.io/library/alpine:3",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := flags.connect(*paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			image, err := m.image(args[0])
			if err != nil {
				return err
			}
			if !image.Reference.IsTag() {
				return errors.New("refresh needs an image with a tag. The content of a digest never changes")
			}
			return m.run(cmd.Context(), func(ctx context.Context) error {
				found, err := m.Refresh(ctx, image)
				if err != nil {
					return fmt.Errorf("%s: %w", image, err)
				}
				return writeCells(cmd.OutOrStdout(), [][]string{{found.Name + ":" + found.Tag, found.Result, found.Digest.String()}})
			})
		},
	}
	flags.flags(cmd)
	cmd.ValidArgsFunction = flags.completeImages(paths)
	return cmd
}
