package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirhq/weir/access"
)

func authCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Create password hashes",
		Args:  cobra.NoArgs,
		RunE:  commandMissing,
	}
	cmd.AddCommand(hashCommand())
	return cmd
}

func hashCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Read a password and print its hash",
		Long: `Read a password and print its Argon2id hash, for the key password of an
[auth.identity] or, after a user name and a colon, for the file of auth.htpasswd. On
a terminal, the command asks for the password twice and does not show it. Otherwise
it reads the first line of standard input.`,
		Example: "  weir auth hash\n  printf '%s\\n' \"$PASSWORD\" | weir auth hash",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr(), true)
			if err != nil {
				return err
			}
			if !access.ValidPassword(password) {
				return errors.New("the password contains a control character, such as a tab, which no client can send. Choose another password")
			}
			fmt.Fprintln(cmd.OutOrStdout(), access.NewHash(password))
			return nil
		},
	}
}

// maxPassword bounds a password, in bytes. It has to fit into a header.
const maxPassword = 4 << 10

// readPassword reads a password: from a terminal without showing it, twice if it is a new
// one, and else the first line of the input.
func readPassword(in io.Reader, prompt io.Writer, isNew bool) (string, error) {
	terminal, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return firstLine(in)
	}
	ask := func(text string) (string, error) {
		fmt.Fprint(prompt, text)
		password, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(prompt)
		return string(password), err
	}
	password, err := ask("Password: ")
	if err != nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	if password == "" {
		return "", errNoPassword
	}
	if !isNew {
		return password, nil
	}
	again, err := ask("Repeat the password: ")
	if err != nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	if again != password {
		return "", errors.New("the passwords do not match")
	}
	return password, nil
}

var errNoPassword = errors.New("the password is empty")

func firstLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	switch {
	case password == "":
		return "", errNoPassword
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return password, nil
}
