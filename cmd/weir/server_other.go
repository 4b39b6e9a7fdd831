//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// The mirror runs on Linux, and so do the commands for its store. Elsewhere there are the commands
// for its clients.

func serveCommand(*[]string) *cobra.Command       { return linuxOnly("serve") }
func checkCommand(*[]string) *cobra.Command       { return linuxOnly("check") }
func healthcheckCommand(*[]string) *cobra.Command { return linuxOnly("healthcheck") }
func verifyCommand(*[]string) *cobra.Command      { return linuxOnly("verify") }
func gcCommand(*[]string) *cobra.Command          { return linuxOnly("gc") }
func importCommand(*[]string) *cobra.Command      { return linuxOnly("import") }

// leftURL returns "": no mirror of this system has left its URL.
func leftURL(string) (string, error) { return "", nil }

// linuxOnly returns a command that says why it does nothing. It is in no list.
func linuxOnly(name string) *cobra.Command {
	return &cobra.Command{
		Use: name, Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("weir %s runs on Linux only, and this is %s. Run it where the mirror runs, or in the container image", name, runtime.GOOS)
		},
	}
}
