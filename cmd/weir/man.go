package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/weirhq/weir/internal/buildinfo"
)

// manCommand returns the command that writes the manual pages of the packages. Users have no need
// of it, so that it is in no list.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the manual pages",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, header := cmd.Root(), doc.GenManHeader{Title: "WEIR", Section: "1", Manual: "Weir"}
			version, _ := buildinfo.Version()
			header.Source = "weir " + version
			// The pages are dated by SOURCE_DATE_EPOCH, if that is set.
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &header, args[0]); err != nil {
				return failure{exitFailed, err}
			}
			return nil
		},
	}
}
