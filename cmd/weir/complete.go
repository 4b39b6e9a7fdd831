package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/api/client"
)

const (
	// completionTime bounds the completion of one word: the user waits for it.
	completionTime = time.Second
	// maxCompletions is how many names are offered at most.
	maxCompletions = 200
)

// completeImages returns the completion of names of images from the mirror that the flags name.
// It offers nothing if the mirror does not answer in time.
func (f *apiFlags) completeImages(paths *[]string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		// The password cannot be asked for here.
		if f.user != "" && os.Getenv(clientPassword) == "" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		m, err := f.connect(*paths, strings.NewReader(""))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer m.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		name, _, hasTag := strings.Cut(word, ":")
		switch {
		case hasTag:
			return tagsWith(ctx, m, name, word), cobra.ShellCompDirectiveNoFileComp
		case !strings.Contains(word, "/"):
			return blocksWith(ctx, m, word), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return repositoriesWith(ctx, m, word), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// tagsWith offers the images of a repository that begin with a word.
func tagsWith(ctx context.Context, m *mirror, name, word string) (offered []cobra.Completion) {
	tags, err := m.Tags(ctx, name)
	if err != nil {
		return nil
	}
	for _, tag := range tags {
		if image := name + ":" + tag; strings.HasPrefix(image, word) && len(offered) < maxCompletions {
			offered = append(offered, image)
		}
	}
	return offered
}

// repositoriesWith offers the repositories that begin with a word, or the images of the only one.
func repositoriesWith(ctx context.Context, m *mirror, word string) (offered []cobra.Completion) {
	found, err := m.SomeRepositories(ctx, client.Page{Text: word, N: maxCompletions})
	if err != nil {
		return nil
	}
	for _, r := range found {
		if strings.HasPrefix(r.Name, word) {
			offered = append(offered, r.Name)
		}
	}
	if len(offered) == 1 {
		return append(offered, tagsWith(ctx, m, offered[0], word)...)
	}
	return offered
}

// blocksWith offers the keys of the blocks with cached repositories that begin with a word.
func blocksWith(ctx context.Context, m *mirror, word string) (offered []cobra.Completion) {
	last := ""
	for range maxCompletions {
		found, err := m.SomeRepositories(ctx, client.Page{Text: word, N: 1, Last: last})
		if err != nil || len(found) == 0 || found[0].Name <= last { // <=: it is not a page behind the last one
			break
		}
		block := found[0].Block
		if strings.HasPrefix(block, word) {
			offered = append(offered, block+"/")
		}
		// "0" is the character behind "/", so this is behind all names of the block.
		last = block + "0"
	}
	return offered
}

// completeWords makes a flag complete to one of some words.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	complete := cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the command has no such flag
	}
}
