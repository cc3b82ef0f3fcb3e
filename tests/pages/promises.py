"""Which test stands behind which row of the tables in the docs.

A row is named by its first cell, a test by its path below ``tests/``. A new row fails until it has its line here.
"""

BEHIND: dict[str, dict[str, list[str]]] = {
    "budget.md": {
        "a number of multiply-accumulates": [
            "planning/test_within.py::test_a_limit_is_met_by_the_true_count",
            "planning/test_within.py::test_dcase_networks_and_their_budgets",
        ],
        "a number of parameters": [
            "planning/test_within.py::test_the_whole_zoo_meets_what_it_can_or_says_what_it_cannot"
        ],
        "a number of bytes": ["planning/test_budget.py::test_what_a_limit_means"],
        "a data type that the network will be deployed in": [
            "planning/test_within.py::test_several_limits_at_once_and_the_type_that_is_deployed",
        ],
        "a part of what the dense network costs": ["planning/test_within.py::test_a_limit_is_met_by_the_true_count"],
        "a part of the time that the dense network takes on this machine": [
            "planning/test_speed.py::test_what_is_measured_in_the_end_decides",
            "planning/test_speed.py::test_a_limit_of_time_that_is_measured",
        ],
        "the rules of a challenge": ["planning/test_within.py::test_dcase_networks_and_their_budgets"],
        "several limits": [
            "planning/test_widths.py::test_limits_are_kept_or_cannot_be",
            "training/test_budget.py::test_the_budget_is_met_and_training_goes_on",
        ],
        "a budget to be reached in steps, repaired after each": [
            "training/test_budget.py::test_every_step_goes_its_share_of_the_way_and_is_repaired",
        ],
        "layers that must keep some filters, or multiples": [
            "planning/test_within.py::test_multiples_and_minimums_are_kept",
        ],
        "a budget that cannot be met": [
            "planning/test_within.py::test_a_budget_that_cannot_be_met_is_refused_before_any_work_with_what_stood_in_the_way",
        ],
        "`dcase2021`": [
            "planning/test_budget.py::test_presets_have_their_years_rule_and_a_limit_of_ones_own_overrules"
        ],
        "`dcase2022`": [
            "planning/test_budget.py::test_presets_have_their_years_rule_and_a_limit_of_ones_own_overrules"
        ],
        "`dcase2024`, `dcase2025`": [
            "planning/test_budget.py::test_presets_have_their_years_rule_and_a_limit_of_ones_own_overrules",
        ],
    },
    "choose.md": {
        "as many filters to go as are redundant; the count is an outcome": [
            "planning/test_choose.py::test_redundant_is_the_published_rule",
        ],
        "the same part of every layer": ["planning/test_choose.py::test_a_fraction_is_rounded_down_to_whole_filters"],
        "a part of your own for some layers, none of the others": [
            "planning/test_choose.py::test_a_mapping_prunes_only_what_it_names",
            "planning/test_choose.py::test_the_first_pattern_that_matches_counts",
        ],
        "as much to go as a limit asks for": ["planning/test_within.py::test_a_limit_is_met_by_the_true_count"],
        "as many filters, chosen otherwise": [
            "planning/test_choose.py::test_rivals_remove_as_many",
            "planning/test_choose.py::test_a_callable_criterion",
        ],
        "filters to go that the kept ones can speak for, and spoken for": [
            "planning/test_response.py::test_after_repair_it_leaves_less_unsaid_than_chance",
        ],
        "some layers left alone": [
            "planning/test_choose.py::test_ignored_layers_by_name_pattern_container_and_module",
            "test_callback.py::test_ignored_layers",
        ],
        "only some layers": ["planning/test_choose.py::test_a_linear_layer_where_a_name_or_pattern_matches_it"],
        "a linear layer pruned too": [
            "planning/test_choose.py::test_a_linear_layer_where_a_name_or_pattern_matches_it"
        ],
        "a trained network pruned, then fine-tuned": [
            "test_callback.py::test_one_added_line_makes_a_users_network_smaller_and_all_of_it_trains",
        ],
        "a prune in the midst of training": ["test_callback.py::test_prune_in_the_middle_of_training"],
        "many small steps instead of one": [
            "test_callback.py::test_several_epochs_reach_the_ratio_in_equal_steps",
            "training/test_schedule.py::test_what_the_arguments_mean",
        ],
        "most removed in the first steps": ["training/test_schedule.py::test_cubic_is_that_of_zhu_and_gupta"],
        "widths that are a multiple of eight": ["planning/test_choose.py::test_round_to_never_removes_more"],
    },
    "data.md": {
        "`TAUUrbanAcousticScenes2019`": ["data/sets/test_tau.py::test_2019"],
        "`TAUUrbanAcousticScenes2020Mobile` (also 2021)": ["data/sets/test_tau.py::test_2020"],
        "`TAUUrbanAcousticScenes2022Mobile` (to 2025)": ["data/sets/test_tau.py::test_2022_in_time_and_memory"],
        "`ESC10(root, download=True, fold=5)`": [
            "data/sets/test_esc.py::test_esc10_as_its_author_laid_it_out",
            "data/sets/test_esc.py::test_download",
        ],
        "`ESC50(root, download=True, fold=5)`": ["data/sets/test_esc.py::test_esc50_as_its_author_laid_it_out"],
        "`train_fraction=0.25`": [
            "data/test_fraction.py::test_the_sizes_are_those_of_the_official_subsets",
            "data/test_fraction.py::test_a_smaller_fraction_is_inside_every_larger_one",
            "data/test_fraction.py::test_all_strata_are_cut_at_one_rate_to_within_a_recording",
            "data/test_fraction.py::test_the_choice_does_not_change_between_versions",
        ],
        '`split="split25.csv"`': ["data/sets/test_tau.py::test_an_official_split_file"],
        '`devices=["a", "b"]`, `cities=["lyon"]`': ["data/sets/test_tau.py::test_devices_and_cities"],
        "`evaluation_root=...`": ["data/test_scenes.py::test_evaluation_clips_are_predicted"],
        "`reassemble(root, destination)`": ["data/sets/test_reassemble.py::test_pieces_become_recordings_again"],
    },
    "features.md": {
        "`Mixup`": [
            "data/augment/test_mixing.py::test_mixup_is_a_convex_combination_of_clips_and_labels_alike",
            "data/augment/test_mixing.py::test_mixup_draws_its_shares_from_the_beta_distribution",
        ],
        "`FreqMixStyle`": [
            "data/augment/test_mixing.py::test_freq_mixstyle_exchanges_band_statistics_and_keeps_the_content",
        ],
        "`FrequencyMask`, `TimeMask`": [
            "data/augment/test_masking.py::test_masks_cover_one_range_of_uniform_width_at_a_uniform_place",
        ],
        "`TimeRoll`": ["data/augment/test_rolling.py::test_rolling_permutes_frames_within_the_stated_shift"],
        "`DeviceImpulseResponse`": [
            "data/augment/test_impulse_response.py::test_impulse_responses_agree_with_scipy_and_leave_other_devices_alone",
        ],
    },
    "method.md": {
        '`"l1"`, `"l2"`': ["ranking/test_criteria.py::test_scores_equal_the_reference"],
        '`"geometric_median"`': ["ranking/test_criteria.py::test_scores_equal_the_reference"],
        '`"geometric_mean"`': ["ranking/test_criteria.py::test_scores_equal_the_reference"],
        '`"operator_norm"`': ["ranking/test_criteria.py::test_scores_equal_the_reference"],
        '`"random"`': ["ranking/test_criteria.py::test_random_repeats_with_its_seed_and_leaves_the_callers_generator"],
        "a callable": ["ranking/test_redundancy.py::test_a_callable_gives_the_scores"],
    },
    "networks.md": {
        "`DCASE2021Baseline`": ["models/test_networks.py::test_dcase2021_counts_as_published"],
        "`DCASE2022Baseline`": ["models/test_networks.py::test_dcase2022_counts_as_published"],
        "`VGGishASC`": ["models/test_vggish.py::test_counts_as_published"],
        "`Cnn14`": ["models/test_panns.py::test_counts_as_published"],
        "`Cnn10`, `Cnn6`": ["models/test_panns.py::test_counts_as_published"],
        "`CPMobile`": ["models/test_cp_mobile.py::test_counts_as_published"],
        "`YAMNet`": ["models/test_yamnet.py::test_counts_as_published"],
    },
    "report.md": {
        "what went, in figures": ["reports/test_tables.py::test_the_headline_is_the_answer"],
        "time of a pass": ["reports/test_recording.py::test_a_fit_leaves_a_page_with_all_that_it_knows"],
        "accuracy dense, as cut, repaired, after the fit": [
            "reports/test_recording.py::test_a_fit_leaves_a_page_with_all_that_it_knows",
            "reports/test_recording.py::test_tests_before_and_after_the_fit_are_compared",
            "reports/test_recording.py::test_training_is_the_same_with_a_page_and_without",
        ],
        "filters before and after along the network, coupled layers joined": [
            "reports/test_recording.py::test_a_fit_leaves_a_page_with_all_that_it_knows",
            "reports/test_layers.py::test_coupled_layers_are_in_one_group",
        ],
        "how alike the filters of a layer are, beside their dendrogram": [
            "reports/test_layers.py::test_the_tree_joins_copies_first_and_the_heat_map_follows_it",
            "reports/test_browser.py::test_a_browser_shows_all_of_it",
        ],
        "removed filters beside the kept ones that stand for them": [
            "reports/test_layers.py::test_partners_are_the_nearest_kept_filters_and_explain_the_squared_cosine",
        ],
        "what each repaired layer computes wrongly": [
            "reports/test_page.py::test_it_stands_alone_and_escapes_what_it_is_given",
        ],
        "learning curves with the prune marked": [
            "reports/test_recording.py::test_a_fit_leaves_a_page_with_all_that_it_knows",
        ],
        "accuracy of each scene and device, before and after": [
            "reports/test_recording.py::test_a_fit_leaves_a_page_with_all_that_it_knows",
        ],
        "time by phase, energy by phase": ["reports/test_energy.py::test_phases_sum_to_the_whole"],
        "many networks: by share of the data, what each layer lost, by device, by energy": [
            "reports/test_page.py::test_many_networks_stand_side_by_side",
            "recipes/test_collect.py::test_runs_become_a_csv_and_a_page",
        ],
        "what kept its filters, and why": ["reports/test_wandb.py::test_pictures_are_pictures_and_tables_have_rows"],
        "csv and LaTeX rows to copy": [
            "reports/test_tables.py::test_the_csv_has_a_line_a_network_and_seed",
            "reports/test_tables.py::test_latex_rows_are_escaped",
        ],
        "`pruning/macs`, `pruning/params`, `pruning/bytes`": [
            "reports/test_recording.py::test_scalars_reach_every_logger",
            "reports/test_wandb.py::test_offline_runs_hold_every_number",
        ],
        "`pruning/macs_removed`, ...": ["reports/test_wandb.py::test_offline_runs_hold_every_number"],
        "`pruning/ratio/<layer>`": ["reports/test_wandb.py::test_offline_runs_hold_every_number"],
        "`criterion`, `repair`, `data/fraction` in the config": [
            "reports/test_wandb.py::test_offline_runs_hold_every_number",
            "recipes/test_collect.py::test_runs_become_a_csv_and_a_page",
        ],
        "`pruning/similarity/<layer>`, `pruning/filters/<layer>`, `pruning/widths`, `pruning/learning`, ...": [
            "reports/test_wandb.py::test_pictures_are_pictures_and_tables_have_rows",
        ],
        "`pruning/tables/networks`, `.../layers`, `.../skipped`, `.../phases`, `.../ratios`": [
            "reports/test_wandb.py::test_pictures_are_pictures_and_tables_have_rows",
        ],
        "`energy/kwh`, `energy/kg_co2`, `energy/<phase>/kwh`": [
            "reports/test_energy.py::test_numbers_reach_the_logger"
        ],
        "artifacts `pruning-<run>` and `pruned-network-<run>`": [
            "reports/test_wandb.py::test_plan_record_and_network_go_with_the_run",
        ],
        "no connection when the run begins": ["reports/test_wandb.py::test_a_dead_connection_keeps_the_run_offline"],
        "the connection dies midway": ["reports/test_wandb.py::test_a_connection_that_dies_midway_holds_nothing_up"],
        "no connection at the end": ["reports/test_wandb.py::test_a_dead_connection_keeps_the_run_offline"],
        "a full disk": ["reports/test_wandb.py::test_a_full_disk"],
        "`WANDB_MODE=disabled`": ["reports/test_wandb.py::test_switched_off"],
        "accuracy against MACs and against the part removed, by criterion and repair": [
            "recipes/test_collect.py::test_every_panel_shows_what_the_runs_log"
        ],
        "criteria and repairs compared, with the spread over seeds": [
            "recipes/test_collect.py::test_every_panel_shows_what_the_runs_log"
        ],
        "accuracy against the share of the data": ["recipes/test_collect.py::test_every_panel_shows_what_the_runs_log"],
        "what each layer lost": ["recipes/test_collect.py::test_the_heat_map_reads_columns_that_its_table_has"],
        "filters and their partners, accuracy by device, energy, learning curves": [
            "recipes/test_collect.py::test_every_panel_shows_what_the_runs_log"
        ],
        "wandb is not installed": ["reports/test_wandb.py::test_without_wandb_the_fit_is_the_same"],
    },
    "prune.md": {
        # In which order
        "`setup`, `on_fit_start`": [
            "test_callback.py::test_what_would_fail_at_the_prune_is_told_before_training",
            "test_callback.py::test_an_optimizer_that_cannot_be_cut_is_told_before_training",
            "training/test_distributed.py::test_strategies",
            "test_callback.py::test_lightnings_own_pruning_is_refused",
            "training/test_checkpoint.py::test_the_users_own_hooks_are_called_and_given_back",
        ],
        "`on_train_start`, where the prune is later": [
            "test_callback.py::test_what_would_fail_at_the_prune_is_told_before_training",
            "test_callback.py::test_a_rehearsal_changes_nothing_and_waits_for_what_may_change",
            "training/test_averages.py::test_an_average_in_the_module_of_none_of_its_parts_is_refused",
        ],
        "a checkpoint is loaded": ["training/test_checkpoint.py::test_a_resumed_run_ends_as_the_uninterrupted_one"],
        "`on_train_start`, `on_train_epoch_start`": [
            "test_callback.py::test_a_rule_of_ones_own",
            "training/test_checkpoint.py::test_a_dense_run_is_pruned_before_it_trains_on",
            "training/test_repair.py::test_what_stops_within_a_repair_leaves_all_as_it_was",
            "test_interrupted.py::test_an_interrupt_at_drawn_moments_leaves_the_network_as_it_was",
        ],
        "1. decide": [
            "test_callback.py::test_looking_at_a_batch_does_not_change_the_training_data",
            "training/test_distributed.py::test_one_process_decides_for_all",
        ],
        "2. unwrap": ["training/test_distributed.py::test_processes_end_bit_identical"],
        "3. cut": [
            "surgery/test_apply.py::test_equal_to_the_masked_dense_network_or_refused",
            "surgery/test_apply.py::test_a_wrong_cut_is_undone_to_the_last_bit",
        ],
        "4. optimizers": [
            "surgery/test_optim.py::test_state_is_that_of_the_kept_filters",
            "surgery/test_optim.py::test_parameter_groups_and_several_optimizers",
        ],
        "5. repair": [
            "training/test_repair.py::test_the_outputs_come_back_and_training_goes_on",
            "training/test_repair.py::test_repair_without_data",
        ],
        "6. averages": [
            "training/test_averages.py::test_averages_are_cut_like_the_network_and_training_goes_on",
            "training/test_repair.py::test_averages_are_repaired_alike",
        ],
        "7. agree": ["training/test_distributed.py::test_processes_that_cut_different_filters_stop"],
        "8. check": ["test_callback.py::test_optimizers_that_were_left_behind_are_noticed"],
        "9. scores": [
            "training/test_monitors.py::test_they_start_as_new_ones_do",
            "training/test_monitors.py::test_the_scores_can_be_kept",
        ],
        "10. report": [
            "test_callback.py::test_numbers_reach_the_logger_and_the_table_the_console",
            "training/test_repair.py::test_numbers_reach_the_logger_and_the_table_the_console",
        ],
        "`teardown`": ["training/test_checkpoint.py::test_the_users_own_hooks_are_called_and_given_back"],
        # What is read for a repair
        "`calibration=16`, a number": [
            "training/test_calibration.py::test_samples_are_spread_over_the_data_set_and_the_same_in_each_epoch",
            "training/test_repair.py::test_training_sees_the_same_batches_and_draws_the_same_numbers",
        ],
        "a sampler of some rows only, such as `SubsetRandomSampler` or `FractionSampler`": [
            "training/test_calibration.py::test_only_what_the_sampler_may_give_is_taken",
        ],
        "an `IterableDataset`, or a loader of ones own": [
            "training/test_calibration.py::test_of_a_stream_the_first_samples_are_taken",
            "training/test_calibration.py::test_a_loader_of_ones_own",
        ],
        "batches": [
            "training/test_calibration.py::test_batches_hold_32_samples_at_most",
            "training/test_calibration.py::test_batches_whose_input_cannot_be_told",
        ],
        "`on_before_batch_transfer`, `on_after_batch_transfer`": [
            "training/test_calibration.py::test_what_is_augmented_in_training_only_stays_as_it_is_and_what_is_computed_is_computed",
        ],
        "random transforms in the data set": [
            "training/test_calibration.py::test_transforms_of_the_data_set_draw_from_a_fixed_seed",
        ],
        "`calibration=[inputs, ...]`": [
            "training/test_calibration.py::test_inputs_of_ones_own",
        ],
        '`repair="merge"`, `repair="constant"`': [
            "training/test_repair.py::test_repair_without_data",
        ],
        "steps of a schedule": [
            "training/test_repair.py::test_every_step_of_a_schedule_is_repaired",
        ],
        "frozen layers": [
            "training/test_repair.py::test_frozen_layers_are_left_alone",
        ],
        "too few samples, labels among the inputs, none at all": [
            "training/test_calibration.py::test_what_cannot_be_used_is_refused",
        ],
        # Strategies and processes
        "one process": ["test_callback.py::test_one_added_line_makes_a_users_network_smaller_and_all_of_it_trains"],
        "`ddp`, 2 processes, gloo; `static_graph`, `find_unused_parameters`, `gradient_as_bucket_view`": [
            "training/test_distributed.py::test_processes_end_bit_identical",
        ],
        "`ddp` against one process with the same batches": [
            "training/test_distributed.py::test_two_processes_train_as_one_with_their_batches_together",
        ],
        "`ddp`, resumed": ["training/test_distributed.py::test_a_run_on_two_processes_resumes"],
        "`ddp` with `repair`": [
            "training/test_distributed.py::test_processes_repair_alike",
            "training/test_distributed.py::test_a_repair_on_two_processes_resumes",
        ],
        "`ddp_spawn`, `ddp_fork`, `ddp_notebook`, on one process too": [
            "training/test_distributed.py::test_one_process_that_is_started_gives_its_weights_back_like_many",
            "training/test_distributed.py::test_spawned_processes_give_the_smaller_network_back",
            "training/test_distributed.py::test_strategies",
        ],
        "a failure, or other filters, on one process; a failure within the repair": [
            "training/test_distributed.py::test_a_failure_on_one_process_stops_all",
            "training/test_distributed.py::test_processes_that_cut_different_filters_stop",
        ],
        "other filters, other epochs, chosen by each process": [
            "training/test_distributed.py::test_one_process_decides_for_all",
        ],
        "`SyncBatchNorm`, `sync_batchnorm=True`": ["training/test_distributed.py::test_strategies"],
        "`ddp_comm_hook`, `model_averaging_period`": ["training/test_distributed.py::test_strategies"],
        "FSDP, DeepSpeed, ModelParallel": [
            "training/test_distributed.py::test_strategies_that_shard_are_refused_by_name",
        ],
        "any other strategy on many processes": [
            "training/test_distributed.py::test_an_unknown_strategy_on_many_processes_is_refused",
        ],
        # Precision and optimization
        "32, `bf16-mixed`, `64-true`, `16-mixed` with its gradient scaler (on the CPU)": [
            "test_callback.py::test_prune_in_the_middle_of_training",
            "training/test_repair.py::test_the_outputs_come_back_and_training_goes_on",
        ],
        "`bf16-true`": ["training/test_repair.py::test_the_outputs_come_back_and_training_goes_on"],
        "gradient accumulation, gradient clipping": ["test_callback.py::test_prune_in_the_middle_of_training"],
        "several optimizers, manual optimization": [
            "test_callback.py::test_manual_optimization_with_two_optimizers",
        ],
        "Adam (amsgrad), AdamW (foreach, fused), Adafactor, Adadelta, Adagrad, Adamax, ASGD, NAdam, RAdam, RMSprop, "
        "Rprop, SGD": ["surgery/test_optim.py::test_every_parameter_stays_bound_and_moves"],
        "an optimizer within another, as in SAM and Lookahead": [
            "surgery/test_optim.py::test_an_optimizer_within_another_keeps_the_state_of_kept_filters"
        ],
        "an optimizer that keeps parameters beside its groups": [
            "surgery/test_optim.py::test_an_optimizer_with_parameters_beside_its_groups_is_refused_before_anything_is_cut"
        ],
        "LBFGS": ["surgery/test_optim.py::test_lbfgs_is_refused_before_anything_is_cut"],
        "StepLR, OneCycleLR, ReduceLROnPlateau, CosineAnnealingWarmRestarts, SequentialLR": [
            "surgery/test_optim.py::test_schedulers_go_on_where_they_were",
            "training/test_checkpoint.py::test_a_resumed_run_ends_as_the_uninterrupted_one",
        ],
        "`torch.compile` of the module, of a part, in place": [
            "surgery/test_compiled.py::test_training_goes_on_with_code_for_the_new_shapes",
            "surgery/test_compiled.py::test_layers_are_named_as_in_the_users_code",
        ],
        # Other callbacks
        "`ModelCheckpoint`, `EarlyStopping` and classes derived from them": [
            "training/test_monitors.py::test_best_is_the_best_of_the_pruned_network",
            "training/test_monitors.py::test_they_start_as_new_ones_do",
            "training/test_monitors.py::test_the_scores_can_be_kept",
        ],
        "`WeightAveraging`, `EMAWeightAveraging`, `StochasticWeightAveraging`": [
            "training/test_averages.py::test_averages_are_cut_like_the_network_and_training_goes_on",
            "training/test_averages.py::test_a_run_with_averages_resumes",
            "training/test_repair.py::test_averages_are_repaired_alike",
        ],
        "an `AveragedModel` held by the LightningModule, as a submodule or not, or by a callback": [
            "training/test_averages.py::test_an_average_in_the_module_follows_the_part_that_it_averages",
            "training/test_averages.py::test_averages_that_are_no_submodules_follow_too",
            "training/test_averages.py::test_an_average_of_one_knows_not_which_part_is_refused",
        ],
        "an `AveragedModel` that `forward` uses in evaluation mode": [
            "training/test_averages.py::test_an_average_that_evaluation_uses_is_refused",
        ],
        "other copies of the network, such as a teacher": [
            "training/test_averages.py::test_an_average_in_the_module_follows_the_part_that_it_averages",
        ],
        "a second `CosineFilterPruning`, of another part, criterion, epoch or other layers": [
            "training/test_two_callbacks.py::test_each_prunes_and_resumes_by_itself",
            "training/test_two_callbacks.py::test_two_that_do_the_same_are_lightnings_error",
        ],
        "Lightning's `ModelPruning`": ["test_callback.py::test_lightnings_own_pruning_is_refused"],
        # Checkpoints
        "resume from before, between and after prunes": [
            "training/test_checkpoint.py::test_a_resumed_run_ends_as_the_uninterrupted_one",
        ],
        "resume from the middle of an epoch, or from its last batch": [
            "training/test_checkpoint.py::test_a_run_resumes_from_the_middle_of_an_epoch",
            "training/test_checkpoint.py::test_a_dense_run_is_pruned_before_it_trains_on",
        ],
        "killed with SIGKILL while training, pruning, repairing or writing": [
            "recipes/test_crash.py::test_a_run_that_is_killed_twice_ends_as_the_undisturbed_one",
            "test_interrupted.py::test_nothing_is_lost_and_a_rerun_ends_byte_equal",
            "test_interrupted.py::test_a_pruned_checkpoint_that_was_interrupted_still_loads",
        ],
        "interrupted from the keyboard, or failed, within a prune or repair": [
            "surgery/test_apply.py::test_an_interrupt_at_any_moment_leaves_all_as_it_was",
            "training/test_repair.py::test_what_stops_within_a_repair_leaves_all_as_it_was",
            "test_interrupted.py::test_an_interrupt_at_drawn_moments_leaves_the_network_as_it_was",
        ],
        '`ckpt_path="best"`, `"last"`, a path, in `fit`, `test`, `validate`, `predict`': [
            "training/test_checkpoint.py::test_last_and_best_after_the_fit",
            "training/test_checkpoint.py::test_a_new_trainer_predicts_from_each_checkpoint",
        ],
        "`save_weights_only=True`": ["training/test_checkpoint.py::test_checkpoints_of_weights_alone"],
        "without the callback": [
            "training/test_checkpoint.py::test_load_pruned",
            "training/test_checkpoint.py::test_the_mixin_loads_by_load_from_checkpoint",
        ],
        "plain state dicts": ["training/test_checkpoint.py::test_every_network_comes_back_from_its_state_dict"],
        "damaged, truncated, foreign, of another version": [
            "training/test_checkpoint.py::test_a_damaged_structure_is_refused_and_nothing_changed",
            "training/test_checkpoint.py::test_a_truncated_file_is_refused",
            "training/test_checkpoint.py::test_another_networks_checkpoint_is_refused",
            "training/test_checkpoint.py::test_files_that_are_no_checkpoint_are_refused",
        ],
        "`torch.save(module)`, `deepcopy`, `pickle`, also in the middle of training": [
            "training/test_checkpoint.py::test_module_and_callback_travel_in_the_middle_of_training",
        ],
        # Packages
        "`pytorch_lightning` Trainers, modules and callbacks": [
            "test_integrations.py::test_the_trainer_of_pytorch_lightning",
        ],
        "LightningCLI files": ["test_integrations.py::test_a_lightning_cli_file"],
        "Hydra's `DictConfig` and `ListConfig`": ["test_integrations.py::test_hydras_containers"],
    },
}

# Tables that one test reads whole, by the start of their header.
READ_WHOLE = {
    ("choose.md", "| question |"): "pages/test_figures.py::test_figures_are_those_of_the_csv",
    ("layers.md", "| kind |"): "pages/test_kinds.py::test_each_row_says_what_happens",
    ("features.md", "| | `dcase2019` |"): "data/features/test_front_ends.py::test_the_documentation_states_the_numbers",
}

# Tables of results: what measured them.
MEASURED = {"repair.md": "recipes/repair/esc10.py", "similar-filters.md": "recipes/responses.py"}
