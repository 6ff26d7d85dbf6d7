//! The names of the build checks, and what each is about.

/// A check.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) detail: &'static str,
    /// Whether it must be asked for.
    pub(crate) experimental: bool,
}

impl Rule {
    /// Where it is explained.
    pub(crate) fn url(&self) -> String {
        let mut words = String::new();
        let characters: Vec<char> = self.name.chars().collect();
        for (index, c) in characters.iter().enumerate() {
            let begins = c.is_uppercase()
                && index > 0
                && (characters[index - 1].is_lowercase()
                    || characters.get(index + 1).is_some_and(|next| next.is_lowercase()));
            if begins {
                words.push('-');
            }
            words.extend(c.to_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{words}/")
    }
}

macro_rules! rules {
    ($($constant:ident $name:literal $detail:literal $experimental:literal;)*) => {
        $(pub(crate) static $constant: Rule = Rule { name: $name, detail: $detail, experimental: $experimental };)*
        /// All of them.
        #[cfg(test)]
        pub(crate) static ALL: &[&Rule] = &[$(&$constant),*];
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" "The names of stages are written in lower case" false;
    FROM_AS_CASING "FromAsCasing" "FROM and its AS are written in the same case" false;
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "An empty line does not end an instruction that is continued; a later version of the format may see that otherwise" false;
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing" "All instructions of a Dockerfile are written in the same case" false;
    DUPLICATE_STAGE_NAME "DuplicateStageName" "Each stage has a name of its own" false;
    RESERVED_STAGE_NAME "ReservedStageName" "A stage is not called by a word that means something else" false;
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended" "A program that is started by a shell does not get the signals that ask it to stop" false;
    MAINTAINER_DEPRECATED "MaintainerDeprecated" "The maintainer is told by the label org.opencontainers.image.authors" false;
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" "FROM uses only arguments that an ARG before the first stage declares" false;
    UNDEFINED_VAR "UndefinedVar" "A variable is declared before it is used" false;
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath" "A relative WORKDIR depends on the base image's" false;
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom" "The defaults of arguments make a valid name of an image" false;
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat" "Names and values are joined by an equals sign" false;
    MULTIPLE_INSTRUCTIONS "MultipleInstructionsDisallowed" "Of several only the last one counts" false;
    SECRETS_USED "SecretsUsedInArgOrEnv" "Arguments and variables stay in the image for everyone to see: mount a secret instead" false;
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform" "The target's platform is what FROM takes anyway" false;
    FROM_PLATFORM_FLAG_CONST "FromPlatformFlagConstDisallowed" "A constant platform makes the image for one platform only" false;
    COPY_IGNORED_FILE "CopyIgnoredFile" "A file that .dockerignore leaves out cannot be copied" true;
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription" "A comment that describes begins with the name of what it describes" true;
    EXPOSE_PROTO_CASING "ExposeProtoCasing" "Protocols are written in lower case" false;
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat" "EXPOSE names ports of the container alone" false;
}
